"""A finished run stays finished, whatever happens to its store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchstone.config.resolve import resolve
from torchstone.tracking.run_folder import RunFolder
from torchstone.train.config import SECTIONS
from torchstone.train.run import TrainJob, run


class Vandal:
    """Puts a folder where the store was, when the last step is done."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def on_checkpoint(self, info: object) -> None:
        for leftover in self.store.parent.glob("store.db*"):
            leftover.unlink()
        self.store.mkdir()


def test_a_run_without_its_store_is_completed_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "cache"))
    settings = resolve(
        SECTIONS,
        overrides=[
            ("model.target", "zoo:gpt-nano"),
            ("model.vocab_size", "300"),
            ("model.num_layers", "1"),
            ("model.d_model", "16"),
            ("model.num_heads", "2"),
            ("data.source", str(tmp_path / "text.txt")),
            ("data.tokenizer", "bytes"),
            ("data.sequence_length", "16"),
            ("train.max_steps", "2"),
            ("tracking.dashboard", "n"),
        ],
    )
    store = tmp_path / "runs" / "store.db"
    result = run(TrainJob(settings, run_dir=tmp_path / "runs" / "first", hooks=(Vandal(store),)))
    shutil.rmtree(store)
    assert (result.status, result.exit_code, result.steps) == ("completed", 0, 2)
    assert any("store" in warning for warning in result.warnings)
    assert RunFolder.open(tmp_path / "runs" / "first").info["status"] == "completed"


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("\nsecond line")], ids=repr)
def test_a_report_that_fails_without_a_word_is_a_warning(error: Exception) -> None:
    from torchstone.train.fit import _first_line

    assert _first_line(error) == ""
