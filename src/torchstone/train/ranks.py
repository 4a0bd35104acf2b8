"""The processes that train together, as the loop sees them. Here: one process alone, where all of it is free.

`rank_group.py` has the form for several. The loop asks for sums, for agreement and for what only one
process does; it never asks how many there are. Every method that several ranks make together must be
reached by all of them, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchstone._seeds import seed_everything
from torchstone.data.part import WHOLE, Part
from torchstone.tracking.checkpoint import Checkpoint
from torchstone.train.saving import Keeping, Saver
from torchstone.train.update import Gradients

T = TypeVar("T")
_AT_ONCE: AbstractContextManager[None] = nullcontext()


class Ranks:
    """One process: sums are what it has, and it agrees with itself."""

    rank = 0
    world = 1

    @property
    def main(self) -> bool:
        """Whether this process writes rows, run folder and checkpoints."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """Which rows of each batch are this process's."""
        return WHOLE

    def total(self, count: int) -> int:
        """Sum over the ranks."""
        return count

    def most(self, wish: int) -> int:
        """The largest over the ranks: a wish of one becomes the act of all."""
        return wish

    def sums(self, measured: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Sums over the ranks, of 0-dim tensors by name for each micro-step."""
        return measured

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward pass; gradients are summed over the ranks in the last of a window."""
        return _AT_ONCE

    def from_main(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; what it raises is raised on every rank."""
        return make()

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank."""
        return [value]

    def main_first(self) -> AbstractContextManager[None]:
        """Rank 0 runs the block before the others, which find what it has put into a cache."""
        return _AT_ONCE

    def leave(self) -> None:
        """The end, which all ranks reach in order."""

    def spread(self, module: nn.Module, strategy: str, device: torch.device, precision: str) -> Spread:
        """Bring the module to all ranks; before the optimizer is built."""
        return Spread()

    def seed(self, seed: int, step: int) -> None:
        """Set all generators for what comes after `step`; each rank draws its own dropout."""
        seed_everything(seed)


class Spread:
    """A module where it is: nothing between it and the loop."""

    def objective(self, objective: Any) -> Any:
        """What a step minimises, so that its gradients are those of all ranks."""
        return objective

    can_be_alone = True
    """Whether this rank can pass a batch through the model while the others do something else."""

    def alone(self, objective: Any) -> Any:
        """The same objective without the other ranks: its gradients stay here."""
        return objective

    def gradients(self, parameters: Sequence[Tensor], max_norm: float | None) -> Gradients:
        return Gradients(parameters, max_norm)

    def opened(self, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """A checkpoint whose tensors come as this rank holds them."""
        return checkpoint

    def saver(
        self,
        keeping: Keeping | None,
        flush_rows: Callable[[], object],
        stop_asked: Callable[[], str | None],
    ) -> Saver | None:
        """Who writes the checkpoints; None keeps none."""
        return None if keeping is None else Saver(keeping, flush_rows, stop_asked)


IN_PLACE = Spread()
ALONE = Ranks()
