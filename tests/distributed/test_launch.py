"""`torchstone train --devices 2`: signals end it in order, a lost rank ends it, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

SETTINGS = [
    "data.tokenizer=bytes",
    "data.sequence_length=16",
    "train.batch_size=3",
    "tracking.dashboard=false",
]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    corpus = folder / "corpus.txt"
    corpus.write_text("the cat sat on the mat, and the dog under the hat. " * 200)
    command = [sys.executable, "-m", "torchstone", "train", "zoo:gpt-nano", "--data", str(corpus)]
    command += [part for each in SETTINGS for part in ("--set", each)]
    command += [
        "--strategy",
        "ddp",
        "--devices",
        "2",
        "--run-dir",
        str(folder / "run"),
        "--checkpoint-every",
        "3",
    ]
    return subprocess.Popen(
        [*command, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )


def until(true: Callable[[], object], launcher: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 90
    while not true():
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < limit, "it takes too long"
        time.sleep(0.05)


def saved(folder: Path) -> int:
    latest = folder / "run" / "latest"
    return int(latest.read_text().strip().removeprefix("step-")) if latest.is_file() else 0


def ranks(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """In the order of their ranks."""
    found = [each for each in psutil.Process(launcher.pid).children() if "RANK" in each.environ()]
    return sorted(found, key=lambda each: int(each.environ()["RANK"]))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, list[psutil.Process]]:
    """Folder, exit code, stderr and ranks of a launch that was sent SIGTERM."""
    folder = tmp_path_factory.mktemp("launch")
    launcher = start(folder)
    until(lambda: saved(folder), launcher)
    both = ranks(launcher)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)
    return folder, launcher.returncode, said, both


def test_a_signal_reaches_the_ranks_which_save_and_end(
    stopped: tuple[Path, int, str, list[psutil.Process]],
) -> None:
    folder, code, said, both = stopped
    assert code == 143, said
    assert len(both) == 2 and not any(each.is_running() for each in both)
    assert saved(folder) > 0
    assert said.count(" parameters; ") == 1, "only rank 0 speaks"
    assert "Traceback" not in said and "Warning" not in said


def test_a_killed_rank_ends_the_job_and_is_named(
    stopped: tuple[Path, int, str, list[psutil.Process]],
) -> None:
    folder = stopped[0]
    before = saved(folder)
    launcher = start(folder, "--resume", "auto")
    until(lambda: saved(folder) > before, launcher)
    both = ranks(launcher)
    both[1].kill()
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert f"resumed after step {before}" in said
    assert "error: rank 1 was ended by SIGKILL" in said and "--resume auto" in said
    assert "Traceback" not in said
    assert not any(each.is_running() for each in both)


def test_ranks_do_not_outlive_a_killed_launcher(stopped: tuple[Path, int, str, list[psutil.Process]]) -> None:
    folder = stopped[0]
    before = saved(folder)
    launcher = start(folder, "--resume", "auto", "--quiet")
    until(lambda: saved(folder) > before, launcher)
    both = ranks(launcher)
    launcher.kill()
    launcher.communicate(timeout=60)
    gone, alive = psutil.wait_procs(both, timeout=60)
    assert len(gone) == 2 and not alive
    assert '"interrupted"' in (folder / "run/run.json").read_text()
