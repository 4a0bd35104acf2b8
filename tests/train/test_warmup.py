"""What warms up with the steps of a run follows from their number, resumed or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torchstone as ts
from torchstone.nn.config import AttentionConfig, MLPConfig
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.train.hooks import StepInfo
from torchstone.train.result import Stopped

VOCABULARY = 19


class Stop:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def trained(folder: Path, steps: int, resume: str | None = None, **options: Any) -> GPT:
    return trained_with(folder, steps, resume, attention=AttentionConfig(name="ra", **options))


def trained_with(
    folder: Path, steps: int, resume: str | None = None, stop_at: int | None = None, **mechanisms: Any
) -> GPT:
    torch.manual_seed(1)
    sizes = {"vocab_size": VOCABULARY, "max_seq_len": 8, "d_model": 16, "num_layers": 2, "num_heads": 2}
    model = GPT(GPTConfig(**sizes, **mechanisms))
    config = ts.TrainingConfig(
        learning_rate=0.01, max_steps=steps, checkpoint_every=2, dashboard=False, checkpoint_dir=str(folder)
    )
    hooks = [] if stop_at is None else [Stop(stop_at)]
    task = ts.TaskSpec.language_modeling(VOCABULARY)
    trainer = ts.Trainer(model, config, task=task, hooks=hooks, device="cpu")
    rows: list[Tensor] = list((torch.arange(16)[:, None] + 5 * torch.arange(8)) % VOCABULARY)
    trainer.train(rows, rows[:4], resume=resume)
    return model


def test_the_reciprocal_term_grows_with_the_steps_taken(tmp_path: Path) -> None:
    model = trained(tmp_path / "a", 4, warmup_steps=6)
    factors = [block.attention.reciprocity.warm_up.factor.item() for block in model.blocks]
    assert factors == pytest.approx([3 / 6, 3 / 6])  # as in the last step
    whole = trained(tmp_path / "b", 4)
    assert not torch.equal(model.blocks[0].attention.qkv.weight, whole.blocks[0].attention.qkv.weight)
    done = trained(tmp_path / "c", 4, warmup_steps=2)
    assert done.blocks[0].attention.reciprocity.warm_up.factor == 1.0


def test_a_first_step_is_taken_without_the_term(tmp_path: Path) -> None:
    one = trained(tmp_path / "a", 1, warmup_steps=6)
    none = trained(tmp_path / "b", 1, alpha=0.0)
    assert torch.equal(one.blocks[0].attention.qkv.weight, none.blocks[0].attention.qkv.weight)


def test_a_part_that_waits_for_a_calm_loss_is_switched_on_alike_in_a_resumed_run(tmp_path: Path) -> None:
    guided = MLPConfig(
        name="r-mlp",
        reciprocal_width=8,
        activation="variance-guided",
        activation_window=2,
        max_variation=9.0,
        max_slope=9.0,
        ramp_steps=4,
    )
    whole = trained_with(tmp_path / "a", 7, mlp=guided)
    assert whole.blocks[0].mlp.switch.begins == 4  # calm after step 2, told one window later
    assert whole.blocks[0].mlp.switch.factor == 0.5
    with pytest.raises(Stopped):
        trained_with(tmp_path / "b", 7, stop_at=5, mlp=guided)
    again = trained_with(tmp_path / "b", 7, resume="auto", mlp=guided)
    assert again.blocks[0].mlp.switch.factor == 0.5
    for name, each in whole.state_dict().items():
        assert torch.equal(each, again.state_dict()[name]), name
