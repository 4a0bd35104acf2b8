"""What a model does in one way of computing: answers, loss, gradients, and the losses of a short training.

    course = run_course(context, batch, way, steps=20)
    apart(course, reference)                # Distances: answers, loss, gradients, trajectory, each relative

Everything is in evaluation mode, since dropout draws other masks in other kernels, and from the same weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.checks.tier1.backward import gradients_of
from torchstone.checks.tier1.objective import objective

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.checks.ways import Way

RATE = 1e-3
"""Learning rate of AdamW on the trajectory."""
SMALL = 1e-4
"""Share of the norm of all gradients; a parameter's whose norm is smaller is compared with this instead."""


@dataclass(frozen=True)
class Course:
    answers: Tensor
    loss: float
    gradients: dict[str, Tensor]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Distances:
    """Relative distances from the reference; None where this way does not learn."""

    answers: float
    """Norm of the difference over the norm."""
    loss: float | None = None
    gradients: float | None = None
    """The worst parameter's, as `answers`."""
    trajectory: float | None = None
    """The largest difference of two losses of one step, over the first loss."""
    parameter: str | None = None
    """Whose gradient is furthest off."""

    def numbers(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}


def run_course(context: Context, batch: Batch, way: Way, steps: int) -> Course:
    """The model is left with its weights as they were."""
    with way.taken(context.module):
        output = context.forward(batch, grad=way.learns)
        answers = output.main.detach().double().cpu()
        if not way.learns:
            return Course(answers, 0.0, {}, ())
        goal = objective(context, batch, output, seed=context.seed)
        found = gradients_of(context.module, goal.loss(output))
        gradients = {name: each.cpu() for name, each in found.gradients.items() if each is not None}
        losses = _train(context, batch, steps) if gradients else ()
    context.kept.restore()
    return Course(answers, found.loss, gradients, losses)


def _train(context: Context, batch: Batch, steps: int) -> tuple[float, ...]:
    trained = [each for each in context.module.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    losses = []
    for _ in range(steps):
        output = context.forward(batch, grad=True)
        loss = objective(context, batch, output, seed=context.seed).loss(output)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    optimizer.zero_grad()
    return tuple(losses)


def apart(course: Course, reference: Course) -> Distances:
    answers = relative(course.answers, reference.answers)
    if not course.losses:
        return Distances(answers)
    scale = max(abs(reference.loss), 1e-12)
    whole = sum(float(each.square().sum()) for each in reference.gradients.values()) ** 0.5
    off = {
        name: relative(course.gradients.get(name, torch.zeros_like(mine)), mine, SMALL * whole)
        for name, mine in reference.gradients.items()
    }
    worst = max(off, key=lambda name: off[name])
    steps = [abs(one - other) for one, other in zip(course.losses, reference.losses, strict=True)]
    return Distances(
        answers=answers,
        loss=abs(course.loss - reference.loss) / scale,
        gradients=off[worst],
        trajectory=max(steps) / scale,
        parameter=worst,
    )


def relative(found: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over the norm of `wanted` or `floor`; infinite where one alone is no number."""
    if found.shape != wanted.shape:
        return torch.inf
    sound = torch.isfinite(wanted)
    if not bool((torch.isfinite(found) == sound).all()):
        return torch.inf
    found, wanted = found[sound].double(), wanted[sound].double()
    return float((found - wanted).norm()) / max(float(wanted.norm()), floor, 1e-30)
