"""A language model whose every random source matters, and which says what it is being used for.

Dropout draws from torch, the noise in training from python and numpy, and a buffer counts the batches: a
run that was resumed with any of it wrong ends with other bits.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from faults.points import reach
from torch import Tensor, nn


class _Announced(torch.autograd.Function):
    """The identity, whose backward pass is a place where a fault can strike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        reach("backward")
        return gradient


class TinyLM(nn.Module):
    def __init__(self, vocab_size: int = 258, d_model: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        reach("build")
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))
        self.register_state_dict_pre_hook(lambda *_: reach("snapshot"))

    def forward(self, input_ids: Tensor) -> Tensor:
        reach("forward" if self.training else "evaluate")
        x = self.embedding(input_ids)
        if self.training:
            self.batches_seen += 1
            x = x * (1 + 0.05 * random.random() + 0.05 * float(np.random.random()))
        x = x + torch.tanh(self.mix(x.cumsum(1)))
        return _Announced.apply(self.head(self.dropout(self.norm(x))))
