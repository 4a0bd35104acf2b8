"""Studies of tiny cells that train in tenths of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import torchstone
from faults.job import MODEL, write_text
from tracking.postgres import postgres

__all__ = ["postgres", "torchstone"]

STUDY = """
[study]
name = "tiny"
kind = "matrix"
seeds = {seeds}
[study.set]
"model.target" = "{model}"
"data.source" = "{text}"
"data.tokenizer" = "bytes"
"data.sequence_length" = 16
"data.validation_split" = 0.2
"train.batch_size" = 2
"train.max_steps" = {steps}
"train.eval_every" = 4
"train.checkpoint_every" = 2
"tracking.dashboard" = false
[[axis]]
name = "rate"
key = "optim.learning_rate"
values = {rates}
"""


def write_study(path: Path, text: Path, *, rates: list[float], seeds: list[int], steps: int = 8) -> str:
    filled = STUDY.format(model=MODEL, text=text, rates=rates, seeds=seeds, steps=steps)
    path.write_text(filled, encoding="utf-8")
    return str(path)


@pytest.fixture
def tiny_study(tmp_path: Path) -> Callable[..., str]:
    text = write_text(tmp_path / "text")

    def write(**sizes: object) -> str:
        return write_study(tmp_path / "tiny.toml", text, **{"rates": [0.01, 0.02], "seeds": [1]} | sizes)  # type: ignore[arg-type]

    return write
