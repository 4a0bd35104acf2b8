"""overfit-one-batch: a model that can learn at all memorises one small batch within a few steps.

The target is set by what an answer without looking could reach (the entropy of the targets), so a model that
only learns its output bias does not pass. Learning rates are tried in turn, each from the same start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from torchstone._seeds import seed_everything
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.footprint import cost_of
from torchstone.checks.tier1.objective import Objective, objective

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

LEARNED = 0.5
"""Part of the blind loss below which the batch counts as learned."""

FALLING = 0.7
"""With few steps: part of the first loss below which it counts as learning."""

STUCK = 0.9
_FEW_STEPS = 20
_LONGEST = 8

_WORK = 3e10
"""Multiply-adds that one descent may take: counted, not timed, so that every machine plans alike."""


@dataclass(frozen=True)
class Attempt:
    """Losses of one descent."""

    learning_rate: float
    losses: tuple[float, ...]

    @property
    def best(self) -> float:
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        return min(finite, default=math.inf)


def overfit_one_batch(context: Context) -> CheckResult:
    if not any(each.requires_grad for each in context.module.parameters()):
        return context.skipped("no parameter requires a gradient")
    length = min(_LONGEST, context.plan.length) if context.takes_tokens else None
    batch = _told_apart(context, context.batch(2, length=length))
    output = context.forward(batch, train=True)
    goal = objective(context, batch, output, seed=context.seed)
    first = float(goal.loss(output))
    if not math.isfinite(first):
        return context.skipped("the loss is not finite; numerical-stability judges that")
    affordable = int(_WORK / max(1, 3 * cost_of(context, batch).multiply_adds))
    patient = context.takes_tokens and not context.plan.shortened
    steps = max(12, min(affordable, context.plan.train_steps * (2 if patient else 1)))
    target = target_loss(first, goal.blind_loss, steps)
    attempts = []
    for rate in _rates(context):
        attempts.append(_descend(context, batch, goal, rate, steps, target))
        context.kept.restore()
        if attempts[-1].best <= target:
            break
    best = min(attempts, key=lambda each: each.best)
    said = f"loss {first:.2f} -> {best.best:.2f} in at most {steps} steps at rate {best.learning_rate:.1e}"
    fields = {
        "measured": best.best,
        "limit": target,
        "unit": "nats",
        "details": {
            "first": first,
            "blind": goal.blind_loss,
            "objective": goal.name,
            "steps": len(best.losses) - 1,
        },
    }
    if best.best <= target:
        return context.passed(f"one batch is learned: {said}", **fields)
    if best.best > STUCK * min(first, max(goal.blind_loss, target)):
        return context.failed(
            f"the model does not learn one batch: {said}",
            **fields,
            hint=(
                "see gradient-flow and dead-parameters; common causes are a detached path, "
                "softmax before the loss, frozen weights"
            ),
        )
    return context.warned(
        f"one batch is learned slowly: {said}",
        **fields,
        hint="try a larger learning rate or a better scaled start",
    )


def _told_apart(context: Context, batch: Batch) -> Batch:
    """Images and sounds of pure noise all look alike; rows get a level of their own, as real ones have."""
    value = batch[context.primary]
    if not value.is_floating_point() or value.shape[0] < 2:
        return batch
    level = torch.linspace(-1.0, 1.0, value.shape[0], device=value.device, dtype=value.dtype)
    return {**batch, context.primary: value + level.view(-1, *[1] * (value.dim() - 1))}


def target_loss(first: float, blind: float, steps: int) -> float:
    """The loss to reach; with few steps only a clear fall is asked for."""
    if steps < _FEW_STEPS:
        return FALLING * first
    return LEARNED * min(first, blind) if blind > 0.1 else LEARNED * first


def _rates(context: Context) -> tuple[float, ...]:
    """Wider models take smaller steps; two neighbours are tried where the first does not do."""
    width = context.facts.d_model or 64
    first = min(1e-2, max(3e-4, 0.6 / width))
    return (first, first / 5) if context.plan.shortened else (first, first / 10, first * 3)


def _descend(
    context: Context, batch: Batch, goal: Objective, rate: float, steps: int, target: float
) -> Attempt:
    parameters = [each for each in context.module.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    losses = []
    with context.mode(train=True), torch.enable_grad():
        for step in range(steps + 1):
            # One fixed draw of dropout and masking: memorising one batch is meant, not averaging over noise.
            seed_everything(context.seed)
            loss = goal.loss(context.adapter(**batch))
            losses.append(float(loss))
            if (
                losses[-1] <= target
                or not math.isfinite(losses[-1])
                or not loss.requires_grad
                or step == steps
            ):
                break
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    optimizer.zero_grad()
    return Attempt(rate, tuple(losses))


CHECKS.add(
    Check(
        "overfit-one-batch",
        tier=1,
        title="learns one batch",
        proves="A few optimizer steps memorise one small batch.",
        run=overfit_one_batch,
    )
)
