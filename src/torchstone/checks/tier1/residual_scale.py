"""residual-scale: through the repeated stack, states and gradients neither explode nor vanish with depth.

A healthy residual stream grows like the number of blocks at most. Growth by a factor per block is another
law, visible already in a shallow stack; trained models with a few outlier blocks pass, because the median
block decides.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone._seeds import seed_everything
from torchstone.adapt.stack import Siblings, stacks_of, traced
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.objective import objective
from torchstone.checks.tier1.settled import settle

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

STATES = 1.8
"""Factor per block beyond what adding equal parts gives (2, 3/2, 4/3, ...), median over the later half."""

SECOND = 100.0
"""The same where there are only two blocks."""

SHRINK = 1 / 4
"""Factor per block below which the state is lost."""

GRADIENTS = 6.0
"""Factor per block, median over the later half."""

WHOLE = 1e4
"""Factor over the whole stack that half precision cannot hold together."""


@dataclass(frozen=True)
class Depth:
    """Sizes of the states after each block of a stack, and of the gradients that reach them."""

    stack: Siblings
    states: tuple[float, ...]
    gradients: tuple[float, ...]

    @property
    def state_factor(self) -> float:
        return per_block(self.states, additive=True)

    @property
    def gradient_factor(self) -> float:
        """Towards the input."""
        return per_block(self.gradients[::-1], additive=False)

    @property
    def gradient_limit(self) -> float:
        return GRADIENTS if len(self.states) > 2 else 10 * SECOND

    @property
    def state_limit(self) -> float:
        # From the first to the second block the scale of the embedding shows; only a wild factor counts.
        return STATES if len(self.states) > 2 else SECOND


def residual_scale(context: Context) -> CheckResult:
    settle(context)
    batch = context.batch()
    stacks = stacks_of(context.module, lambda: context.forward(batch))
    if not stacks:
        return context.skipped("no repeated stack of blocks was found")
    depths = [depth for depth in (measure(context, stack) for stack in stacks[:3]) if depth is not None]
    if not depths:
        return context.skipped("the blocks of the stack hand on no floating state")
    worst = max(depths, key=lambda each: _badness(each))
    factor = worst.state_factor
    details: dict[str, Any] = {
        each.stack.name: {"states": each.states, "gradients": each.gradients} for each in depths
    }
    fields: dict[str, Any] = {
        "measured": factor,
        "limit": worst.state_limit,
        "unit": "factor per block",
        "details": details,
    }
    guilty = _guilty(worst)
    where = worst.stack.name or "the model"
    if not all(map(math.isfinite, worst.states)):
        return context.failed("states become NaN or infinite with depth", module=guilty, **fields)
    if factor > worst.state_limit or _whole(worst.states) > WHOLE:
        return context.failed(
            f"states grow {factor:.1f}-fold per block ({worst.states[0]:.2g} -> "
            f"{worst.states[-1]:.2g} in {where})",
            module=guilty,
            hint="scale residual branches by 1/sqrt(2 * layers), or normalise inside the block",
            **fields,
        )
    if factor < SHRINK or _whole(worst.states) < 1 / WHOLE:
        return context.failed(
            f"states shrink to {factor:.2g} per block ({worst.states[0]:.2g} -> "
            f"{worst.states[-1]:.2g} in {where})",
            module=guilty,
            hint="keep a residual path with weight one, or normalise inside the block",
            **fields,
        )
    gradient = worst.gradient_factor
    limit = worst.gradient_limit
    if not 1 / limit <= gradient <= limit or not 1 / WHOLE <= _whole(worst.gradients) <= WHOLE:
        way = "grow" if gradient > 1 else "shrink"
        return context.failed(
            f"gradients {way} by {gradient:.2g} per block towards the input of {where}",
            module=guilty,
            hint="add a residual path, or normalise before each branch",
            **(fields | {"measured": gradient, "limit": limit}),
        )
    return context.passed(
        f"{len(worst.states)} blocks in {where}: states change {factor:.2f}-fold per "
        f"block, gradients {gradient:.2f}-fold",
        **fields,
    )


def measure(context: Context, stack: Siblings) -> Depth | None:
    """One run with gradients through the stack."""
    found, loss = _through(context, stack, train=False)
    if len(found) < 2:
        return None
    gradients: tuple[Tensor | None, ...] = (None,) * len(found)
    if loss.requires_grad and all(each.requires_grad for each in found):
        try:
            gradients = torch.autograd.grad(loss, found, allow_unused=True)
        except RuntimeError:
            # In-place tricks of evaluation mode forbid a backward pass; training mode does without them.
            found, loss = _through(context, stack, train=True)
            gradients = torch.autograd.grad(loss, found, allow_unused=True)
    sizes = tuple(_rms(each) for each in gradients if each is not None)
    return Depth(stack, tuple(_rms(each) for each in found), sizes if len(sizes) == len(found) else ())


def _through(context: Context, stack: Siblings, train: bool) -> tuple[list[Tensor], Tensor]:
    """States after each block, still on the graph, and the loss."""
    batch = context.batch()
    members = dict(zip(stack.names, stack.modules, strict=True))
    with context.mode(train), torch.enable_grad(), traced(members, keep=lambda state: state) as trace:
        seed_everything(context.seed)
        output = context.adapter(**batch)
        loss = objective(context, batch, output, seed=context.seed).loss(output)
    states = [trace.last(name) for name in stack.names]
    return [each for each in states if each is not None], loss


def per_block(sizes: tuple[float, ...], additive: bool) -> float:
    """Median factor per block in the later half; `additive`: beyond what adding equal parts gives."""
    if len(sizes) < 2 or not all(map(math.isfinite, sizes)):
        return 1.0
    factors = []
    for place in range(1, len(sizes)):
        before, after = sizes[place - 1], sizes[place]
        if before <= 0 or after <= 0:
            return 1.0 if before == after else (math.inf if after > 0 else 0.0)
        factor = after / before
        share = (place + 1) / place
        factors.append(max(1.0, factor / share) if additive and factor > 1 else factor)
    # The first blocks still carry the scale of the embedding.
    return float(statistics.median(factors[len(factors) // 2 :]))


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().cpu().abs().double().square().mean().sqrt())


def _whole(sizes: tuple[float, ...]) -> float:
    if len(sizes) < 2 or sizes[0] <= 0:
        return 1.0
    return sizes[-1] / sizes[0]


def _badness(depth: Depth) -> float:
    if not all(map(math.isfinite, depth.states)):
        return math.inf
    factors = [depth.state_factor, depth.gradient_factor, _whole(depth.states) ** 0.2]
    return max(abs(math.log(max(each, 1e-30))) for each in factors)


def _guilty(depth: Depth) -> str:
    """The block with the largest jump."""
    jumps = [
        abs(math.log(max(after, 1e-30) / max(before, 1e-30))) if math.isfinite(after) else math.inf
        for before, after in zip(depth.states, depth.states[1:], strict=False)
    ]
    return depth.stack.names[jumps.index(max(jumps)) + 1]


CHECKS.add(
    Check(
        "residual-scale",
        tier=1,
        title="scale with depth",
        proves="States and gradients neither explode nor vanish with depth.",
        run=residual_scale,
    )
)
