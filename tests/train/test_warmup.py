"""What warms up with the steps of a run follows from their number, resumed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torchstone as ts
from torchstone.nn.config import AttentionConfig
from torchstone.nn.gpt import GPT, GPTConfig

VOCABULARY = 19


def trained(folder: Path, steps: int, resume: str | None = None, **options: Any) -> GPT:
    torch.manual_seed(1)
    attention = AttentionConfig(name="ra", **options)
    sizes = {"vocab_size": VOCABULARY, "max_seq_len": 8, "d_model": 16, "num_layers": 2, "num_heads": 2}
    model = GPT(GPTConfig(**sizes, attention=attention))
    config = ts.TrainingConfig(
        learning_rate=0.01, max_steps=steps, checkpoint_every=2, dashboard=False, checkpoint_dir=str(folder)
    )
    trainer = ts.Trainer(model, config, task=ts.TaskSpec.language_modeling(VOCABULARY), device="cpu")
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
