"""A factor that grows from 0 to 1 over the first optimizer steps of a training run.

The engine tells every module that has an `at_step` how many steps were taken, before each step. The factor
follows from that number alone, so a resumed run has the same; it is a buffer, so a checkpoint of a run that
was stopped early is evaluated as it was. Where nobody tells steps, it is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WarmUp(nn.Module):
    factor: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("factor", torch.ones(()))

    def at_step(self, step: int) -> None:
        """`step` optimizer steps were taken."""
        self.factor.fill_(min(1.0, step / self.steps))

    def forward(self, x: Tensor | float) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"steps={self.steps}"
