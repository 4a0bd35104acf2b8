"""What training prints in a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchstone.cli.train_view import TrainView
from torchstone.train.hooks import StartInfo, StepInfo


def test_speed_counts_what_the_model_learns_from(capsys: pytest.CaptureFixture[str]) -> None:
    view = TrainView(quiet=False, sample_tokens=0)
    view.on_start(
        StartInfo(
            run_id="r", run_dir=Path("runs/r"), model="zoo:lenet5", parameters=9, trainable=9, device="cpu",
            precision="fp32", total_steps=1, steps_per_epoch=1, first_step=0, has_validation=True,
            unit="images",
        )
    )  # fmt: skip
    view.on_step(StepInfo(1, 1, learning_rate=0.1, tokens=32, tokens_per_s=64.0, loss=2.0, grad_norm=1.0))
    assert "loss 2.0000  64 images/s" in capsys.readouterr().err
