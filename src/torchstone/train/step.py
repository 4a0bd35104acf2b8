"""One training step, the whole of it. It knows no model, no task, no tracker.

    window of micro-batches -> sum of losses, backward, each -> update

The gradient is seeded with 1 / targets of the whole window (not of each micro-batch): that is what makes
every split of the same tokens give the same gradient. How it is clipped and applied, and who finds out
that it must not be (host or device), is the update's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone.optim.groups import rate_of
from torchstone.train.ranks import ALONE, Ranks
from torchstone.train.update import Applied, Update

Micro = Any
"""A micro-batch: whatever the objective understands."""


class Objective(Protocol):
    """What a step minimises: a batch becomes a sum of losses over a known number of targets."""

    def count(self, batch: Micro) -> int: ...

    def loss_sum(self, batch: Micro) -> Tensor: ...

    def measure(self, batch: Micro, observe: Any = None) -> dict[str, Tensor]:
        """Sums over the counted targets, by metric name; `loss` as in `loss_sum`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What stays the same from step to step."""

    update: Update
    autocast: Callable[[], AbstractContextManager[object]]
    ranks: Ranks = ALONE
    """Who takes the step together."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of a step. Tensors stay where they are: reading one waits for the device."""

    sums: Sequence[dict[str, Tensor]]
    """Of each micro-batch, by metric name."""
    targets: int
    update: Applied

    def total(self, name: str) -> float:
        """Sum of a metric over the window."""
        return math.fsum(each[name].item() for each in self.sums)


def train_step(
    window: Sequence[Micro],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    recipe: Recipe,
    *,
    measured: bool = False,
) -> StepOutcome:
    """Gradients of the window, clipped, applied once. `measured`: with the other metrics of the task."""
    ranks = recipe.ranks
    targets = ranks.total(sum(objective.count(batch) for batch in window))
    sums: list[dict[str, Tensor]] = []
    for number, batch in enumerate(window, start=1):
        with ranks.reducing(last=number == len(window)):
            with recipe.autocast():
                scores = objective.measure(batch) if measured else {"loss": objective.loss_sum(batch)}
            loss = scores["loss"]
            loss.backward(recipe.update.seed(loss, targets))  # type: ignore[no-untyped-call]
        scores["loss"] = loss.detach()
        sums.append(scores)
    sums = ranks.sums(sums)
    for group in optimizer.param_groups:
        group["lr"] = rate_of(group, learning_rate)
    applied = recipe.update.apply(optimizer, [each["loss"] for each in sums])
    recipe.update.gradients.clear()
    return StepOutcome(sums, targets, applied)


def nothing_to_learn(step: int) -> DataError:
    return DataError(
        "a whole optimizer step has nothing to learn from",
        where=f"step {step}",
        why="no label counts: sequences shorter than two tokens, or all of it padding",
        next="check the tokenizer's pad token and the sequence length",
    )
