"""An exponential moving average of the weights, which often scores better than the last of them.

    average <- decay * average + (1 - decay) * weights        after each update that was made

Kept in float32 beside the weights (Polyak & Juditsky 1992; the exponential form as in Vaswani et al. 2017).
Buffers are not averaged: validation uses those of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows the floating parameters of a module that learn."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        named = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
        self.names = [name for name, _ in named]
        self._weights: list[Tensor] = [each for _, each in named]
        self._average = [each.detach().float().clone() for each in self._weights]

    @torch.no_grad()
    def follow(self, bad: Tensor | None = None) -> None:
        """Once per update; `bad` is 1 where the device refused it."""
        weights = [each.detach().float() for each in self._weights]
        if bad is None:
            torch._foreach_lerp_(self._average, weights, 1.0 - self.decay)
            return
        steps = torch._foreach_sub(weights, self._average)
        torch._foreach_mul_(steps, (1.0 - self.decay) * (1.0 - bad))
        torch._foreach_add_(self._average, steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For a while the module has the averaged weights."""
        before = [each.detach().clone() for each in self._weights]
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, before)

    def tensors(self) -> dict[str, Tensor]:
        """The averages under the names of the parameters."""
        return dict(zip(self.names, self._average, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, own in zip(self.names, self._average, strict=True):
            own.copy_(state[name])
