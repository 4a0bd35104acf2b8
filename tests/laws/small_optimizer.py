"""Something of every role to optimize, and gradients with a history: what the laws of optimizers share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import OPTIMIZERS, OptimizerRecord
from torchstone.tracking.state_file import pack

each_optimizer = pytest.mark.parametrize("record", OPTIMIZERS, ids=OPTIMIZERS.names())

SHORT: dict[str, dict[str, Any]] = {
    "adamwspam": {"spam_interval": 30, "spam_warmup": 8, "spam_theta": 9.0, "amsgrad": True},
    "spam": {"spam_interval": 40, "spam_warmup": 8, "spam_theta": 9.0},
    "sgd": {"nesterov": True},
}
"""Knobs that let 50 steps see a reset, a warm-up, spikes."""


class Small(nn.Module):
    """Something of every role: embedding, hidden matrices, norm, biases, output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.wide = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)
        self.narrow = nn.Linear(10, 4)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.narrow(self.norm(torch.tanh(self.wide(self.embedding(ids)))))))


def config_for(record: OptimizerRecord, **knobs: Any) -> OptimConfig:
    return OptimConfig(name=record.name, **{"learning_rate": 0.02, **knobs})


def train(module: nn.Module, optimizer: torch.optim.Optimizer, number: int, update: Any = None) -> float:
    """Steps on a fixed task; the last loss."""
    ids = torch.arange(40) % 5
    targets = (ids * 2 + 1) % 3
    loss = torch.zeros(())
    for _ in range(number):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(ids), targets)
        loss.backward()
        optimizer.step() if update is None else update.apply(optimizer, [loss.detach()])
    return float(loss.detach())


def gradients_of(module: nn.Module, step: int) -> None:
    """Noise with a history: scales differ, some elements learn late, one spikes, and once all do."""
    generator = torch.Generator().manual_seed(step)
    for number, each in enumerate(module.parameters()):
        gradient = torch.randn(each.shape, generator=generator, dtype=torch.float64) * 10.0 ** -(number % 3)
        if step < 12:
            gradient.view(-1)[:2] = 0.0
        if step % 9 == 8:
            gradient.view(-1)[-1] *= 1e4
        each.grad = (gradient * (40.0 if step == 26 else 1.0)).to(each.dtype)


def same(left: Any, right: Any) -> bool:
    one, other = pack(left), pack(right)
    return one[0] == other[0] and all(torch.equal(each, other[1][name]) for name, each in one[1].items())
