"""An optimizer in a run: what does not go together is refused before the first file is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torchstone as ts
from torchstone._errors import ConfigError
from torchstone.config.resolve import resolve
from torchstone.nn.gpt import GPT, GPTConfig
from torchstone.train.assembly import refuse_split
from torchstone.train.config import SECTIONS


@pytest.mark.parametrize("name", ["muon", "sinkgd", "adamwspam"])
def test_what_needs_whole_gradients_does_not_go_with_fsdp(name: str) -> None:
    config = resolve(SECTIONS).with_values({"optim.name": name, "train.strategy": "fsdp"})
    with pytest.raises(ConfigError, match="does not go with"):
        refuse_split(config)
    refuse_split(config.with_values({"train.strategy": "ddp"}))


def test_what_an_optimizer_does_to_gradients_comes_before_they_are_measured(tmp_path: Path) -> None:
    """Clipping by element, and then by norm."""
    norms: dict[str, list[float]] = {}
    for name in ("adamw", "adamwspam"):
        seen = norms.setdefault(name, [])
        torch.manual_seed(0)
        module = GPT(GPTConfig(vocab_size=7, max_seq_len=4, d_model=8, num_layers=1, num_heads=2))
        config = ts.TrainingConfig(
            optimizer=name,
            batch_size=2,
            epochs=1,
            max_steps=2,
            warmup_ratio=0.0,
            dashboard=False,
            checkpoint_dir=str(tmp_path / name),
            **({"spam_theta": 1e-6} if name == "adamwspam" else {}),
        )
        rows = [torch.arange(4) + n for n in range(4)]
        hook = SimpleNamespace(on_step=lambda info, seen=seen: seen.append(info.grad_norm))
        task = ts.TaskSpec.language_modeling(7)
        ts.Trainer(module, config, task=task, hooks=hook, device="cpu").train(rows)
    assert norms["adamwspam"][0] == norms["adamw"][0]
    assert norms["adamwspam"][1] < 0.01 * norms["adamw"][1]


@pytest.mark.parametrize(
    ("key", "value"), [("optim.beta1", 0.8), ("optim.spam_theta", 3.0), ("optim.muon_steps", 3)]
)
def test_a_knob_of_another_optimizer_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        resolve(SECTIONS).with_values({"optim.name": "sgd", key: value})
