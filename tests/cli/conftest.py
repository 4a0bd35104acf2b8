"""Run the command line in this process, as a user would type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def object(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        return json.loads(self.out)


@pytest.fixture
def torchstone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Answer]:
    """`torchstone("check", "zoo:gpt-nano")` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def type_it(*arguments: object) -> Answer:
        from torchstone.cli.main import run

        capsys.readouterr()
        code = run([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return type_it


TINY = "--set model.d_model=16 --set model.num_layers=1 --set model.num_heads=2 --set model.max_seq_len=32"


@pytest.fixture
def run(torchstone: Callable[..., Answer], tmp_path: Path) -> Path:
    """A run of three steps over a small text, with a byte tokenizer."""
    (tmp_path / "text.txt").write_text("a cat sat on a mat.\n" * 200)
    answer = torchstone(
        "train", "zoo:gpt-nano", "--data", tmp_path / "text.txt", "--set", "data.tokenizer=bytes",
        "--max-steps", 3, "--run-dir", tmp_path / "run", "-q", *TINY.split(), "--set", "tracking.dashboard=n",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return tmp_path / "run"
