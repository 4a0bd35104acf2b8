"""One training step, the whole of it. It knows no model, no task, no tracker.

    window of micro-batches -> loss / targets of the window -> backward, each -> clip -> update

The division by the targets of the whole window (not of each micro-batch) is what makes every split of
the same tokens give the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Micro = Any
"""A micro-batch: whatever the objective understands."""


class Objective(Protocol):
    """What a step minimises: a batch becomes a sum of losses over a known number of targets."""

    def count(self, batch: Micro) -> int: ...

    def loss_sum(self, batch: Micro) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What stays the same from step to step."""

    parameters: Sequence[Tensor]
    max_grad_norm: float | None
    autocast: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    loss: float
    """Mean over the targets of the window."""
    grad_norm: float
    """L2 norm of all gradients before clipping."""
    targets: int
    applied: bool
    """False: loss or gradient is not finite, and nothing was changed."""


def train_step(
    window: Sequence[Micro],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    recipe: Recipe,
) -> StepOutcome:
    """Gradients of the window, clipped, applied once."""
    targets = sum(objective.count(batch) for batch in window)
    losses: list[Tensor] = []
    for batch in window:
        with recipe.autocast():
            share = objective.loss_sum(batch) / max(targets, 1)
        share.backward()  # type: ignore[no-untyped-call]
        losses.append(share.detach())
    grad_norm = clip(recipe.parameters, recipe.max_grad_norm)

    # The one place where a device is waited for: a bad step must be known before it is applied.
    loss, norm = math.fsum(each.item() for each in losses), grad_norm.item()
    applied = math.isfinite(loss + norm)
    if applied:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepOutcome(loss, norm, targets, applied)


def clip(parameters: Sequence[Tensor], max_norm: float | None) -> Tensor:
    """Scale all gradients so that their common norm is at most `max_norm`; the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
