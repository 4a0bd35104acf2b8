"""One batch through the model before the clock starts: which attention kernel runs, and a warm device.

It leaves weights, buffers, gradients and generators as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._seeds import preserved_rng
from torchstone.train.attention_kernel import observed_kernels
from torchstone.train.step import Micro, Objective

WARM_UP_PASSES = 3
"""On a device that runs ahead, the first passes choose kernels and fill the allocator's cache."""


class Rehearsal:
    """Forward passes of one training batch, without consequences."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        batch: Micro,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.module = module
        self.objective = objective
        self.batch = batch
        self.autocast = autocast

    def loss(self) -> Tensor:
        """Mean loss of the batch, with its graph; the caller keeps the state."""
        with self.autocast():
            return self.objective.loss_sum(self.batch) / max(self.objective.count(self.batch), 1)

    def kernels(self) -> dict[str, str]:
        """Layer -> attention kernel that was observed."""
        with unchanged(self.module):
            return observed_kernels(self.module, self.loss)

    def quietly(self) -> Tensor:
        """The loss, with everything put back."""
        with unchanged(self.module):
            return self.loss()

    def warm_up(self) -> None:
        with unchanged(self.module):
            for _ in range(WARM_UP_PASSES):
                self.loss().backward()  # type: ignore[no-untyped-call]
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """In training mode for the length of the block; buffers, gradients, modes and generators come back."""
    modes = [(each, each.training) for each in module.modules()]
    buffers = [(each, each.clone()) for each in module.buffers()]
    gradients = [(each, each.grad) for each in module.parameters()]
    if not module.training:
        module.train()
    try:
        with preserved_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for each, gradient in gradients:
            each.grad = gradient
        for each_module, mode in modes:
            each_module.training = mode
