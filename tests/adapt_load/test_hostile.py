"""No hostile model leaves a trace outside its folder, and each gets a clear line.

Every file of `hostile/` says in its docstring what it tries and what must come of it: `blocked: PATTERN`
(UntrustedCode), `error: PATTERN` (ModelError), or `harmless` (it runs, and nothing of it lasts).
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
from pathlib import Path

import psutil
import pytest

from torchstone._errors import ModelError, TorchstoneError, UntrustedCode
from torchstone.adapt.isolate import Limits, PreloadedWorkers, run_isolated

CORPUS = sorted((Path(__file__).parent / "hostile").glob("*.py"))
SECRETS = ("canary-93f1", "token-5d20")
TIGHT = Limits(
    wall_s=20.0,
    memory_bytes=512 * 2**20,
    file_bytes=16 * 2**20,
    folder_bytes=64 * 2**20,
    log_bytes=20_000,
)
# Files that never end by themselves are given less time, and only so much as the walls need to be raised.
ENDLESS = "did not finish"


def test_the_corpus_is_as_large_as_promised():
    assert len(CORPUS) >= 25


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_hostile_model_leaves_no_trace(
    path: Path, workers: PreloadedWorkers, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCHSTONE_TEST_SECRET", "token-5d20")
    home = Path.home()
    before = _snapshot(outside), set(home.iterdir())
    processes = psutil.Process().children(recursive=True)
    expected = _expectation(path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        model = tmp_path / "model"
        model.mkdir()
        shutil.copy(path, model / "model.py")
        told = {"outside": str(outside), "home": str(home), "port": server.getsockname()[1]}
        (model / "config.json").write_text(json.dumps(told))
        words = _run(model, tmp_path / "private", workers, endless=ENDLESS in expected)
        with pytest.raises(BlockingIOError):
            server.accept()

    kind, _, pattern = expected.partition(": ")
    assert words.startswith(f"{kind}:"), words
    assert re.search(pattern, words.splitlines()[0]), words
    assert not any(secret in words for secret in SECRETS)
    assert words.replace("\n", "").isprintable()
    assert (_snapshot(outside), set(home.iterdir())) == before
    assert not _survivors(processes)
    assert not Path("/tmp/torchstone-hostile").exists()
    assert not Path("/dev/shm/torchstone-hostile").exists()
    for left in (tmp_path / "private").rglob("*"):
        assert left.is_file() or left.is_dir()
        assert not left.is_symlink()
        assert left.stat().st_uid == os.getuid()
        assert not left.stat().st_mode & 0o7000


def _run(model: Path, private: Path, workers: PreloadedWorkers, *, endless: bool) -> str:
    limits = Limits(**{**TIGHT.__dict__, "wall_s": 1.0}) if endless else TIGHT
    try:
        result = run_isolated(
            "torchstone.adapt.load:describe", {"target": str(model)}, private, limits, workers=workers
        )
    except UntrustedCode as problem:
        assert problem.exit_code == 3
        return f"blocked: {problem}"
    except ModelError as problem:
        assert problem.exit_code == 1
        return f"error: {problem}"
    except TorchstoneError as problem:
        return f"{type(problem).__name__}: {problem}"
    assert result.value["class"] == "Model"
    return f"harmless: {json.dumps(result.value)} {result.log}"


def _expectation(path: Path) -> str:
    words = ast.get_docstring(ast.parse(path.read_text())) or ""
    return words.rpartition("Expect: ")[2].strip()


def _snapshot(folder: Path) -> list[tuple[str, str, int]]:
    return sorted((each.name, each.read_text(), each.stat().st_nlink) for each in folder.iterdir())


def _survivors(before: list[psutil.Process]) -> list[psutil.Process]:
    """New descendants that are still there when the launcher has had the time to leave."""
    new = [each for each in psutil.Process().children(recursive=True) if each not in before]
    return psutil.wait_procs(new, timeout=5)[1]
