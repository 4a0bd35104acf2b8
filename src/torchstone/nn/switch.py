"""A factor that is 0 until a part of the model is switched on in training, and 1 from then on.

The engine tells every module with an `at_step` how many optimizer steps were taken, before each step, and
every module with an `at_loss` the loss of each step that was made. What follows from that is in buffers, so a
resumed run has the same factor and a checkpoint is evaluated as it was trained. Where nobody tells steps, it
is 1.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Guide(Protocol):
    """What a section of knobs tells of when the loss is calm."""

    activation_window: int
    max_variation: float
    max_slope: float
    ramp_steps: int


class Delayed(nn.Module):
    """On after `steps` optimizer steps."""

    factor: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("factor", torch.ones(()))

    def at_step(self, step: int) -> None:
        """`step` optimizer steps were taken."""
        self.factor.fill_(float(step >= self.steps))

    def forward(self) -> Tensor:
        return self.factor


class VarianceGuided(nn.Module):
    """On when the loss has calmed: looked at after every `window` steps, over the losses of those steps.

    Calm means: standard deviation / mean below `variation`, and |last - first| / window below `slope`. The
    factor then grows from 0 to 1 over `ramp` steps, beginning one window later: losses become known some
    steps after they were made, and when it begins must not depend on when somebody looked.
    """

    factor: Tensor
    losses: Tensor
    seen: Tensor
    begins: Tensor

    def __init__(self, window: int, variation: float, slope: float, ramp: int) -> None:
        super().__init__()
        self.window, self.variation, self.slope, self.ramp = window, variation, slope, ramp
        self.register_buffer("factor", torch.ones(()))
        self.register_buffer("losses", torch.zeros(window))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("begins", torch.full((), -1, dtype=torch.long))

    @classmethod
    def of(cls, knobs: Guide) -> VarianceGuided:
        return cls(knobs.activation_window, knobs.max_variation, knobs.max_slope, knobs.ramp_steps)

    def at_step(self, step: int) -> None:
        """`step` optimizer steps were taken."""
        grown = (
            ((step - self.begins) / max(1, self.ramp)).clamp(0.0, 1.0) if self.ramp else step >= self.begins
        )
        self.factor.copy_(torch.where(self.begins >= 0, grown, 0.0))

    def at_loss(self, step: int, loss: float) -> None:
        """The loss of step `step`, counted from 1. A window with a refused step decides nothing."""
        place = (step - 1) % self.window
        if place == 0:
            self.seen.zero_()
        self.losses[place] = loss
        self.seen += 1
        if place < self.window - 1:
            return
        losses = self.losses.double()
        calm = losses.std(correction=0) < self.variation * losses.mean().abs()
        calm &= (losses[-1] - losses[0]).abs() / self.window < self.slope
        calm &= (self.seen == self.window) & (self.begins < 0)
        self.begins.copy_(torch.where(calm, step + self.window, self.begins))

    def forward(self) -> Tensor:
        return self.factor
