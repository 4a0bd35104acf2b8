"""gradient-flow: a training loss reaches every parameter that matters, with gradients neither dead nor wild.

A parameter that moves the answer but gets no gradient is cut off (detach, no_grad, rounding). One that gets
zero because another starts at zero is alive: that is judged after two small steps. What is never used at all
is dead-parameters' business.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import Backward, backward, cutting_module, influence, owners, small_step
from torchstone.checks.tier1.finite import first_bad_module

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

EXPLODED = 1e4
"""Norm of one parameter's gradient for a loss of a few units; clipping at 1 would throw away all but a ten-
thousandth.
"""

VANISHED = 1e-7
"""Gradient per entry relative to the strongest matrix; below it float32 sums lose the step."""

_STEPS = 2
_ASKED = 12
_MOVES = 1e-5


def gradient_flow(context: Context) -> CheckResult:
    if not any(each.requires_grad for each in context.module.parameters()):
        return context.skipped("no parameter requires a gradient")
    batch = context.batch()
    first = backward(context, batch)
    if not math.isfinite(first.loss):
        module = first_bad_module(context.module, lambda: context.forward(batch, train=True))
        return context.failed(
            "the training loss is NaN or infinite",
            module=module,
            measured=1.0,
            limit=0.0,
            unit="losses",
            hint="numerical-stability says for which inputs",
        )
    if not first.connected:
        module = cutting_module(context.module, lambda: context.forward(batch, train=True, grad=True))
        return context.failed(
            "the loss depends on no parameter" + (f": the graph is cut in {module}" if module else ""),
            module=module,
            measured=float(len(first.gradients)),
            limit=0.0,
            unit="parameters",
            hint=_CUT_HINT,
        )
    return _not_finite(context, first) or _cut_off(context, batch, first) or _sizes(context, first)


def _not_finite(context: Context, first: Backward) -> CheckResult | None:
    bad = [
        name
        for name, each in first.gradients.items()
        if each is not None and not bool(torch.isfinite(each).all())
    ]
    if not bad:
        return None
    return context.failed(
        f"{len(bad)} gradients hold NaN or infinity although the loss is finite; the last in "
        f"order: {bad[-1]}",
        measured=float(len(bad)),
        limit=0.0,
        unit="parameters",
        module=owners(bad)[-1],
        hint="look for sqrt(0), 0 * inf in torch.where, norm() of a zero vector or log of zero",
        details={"parameters": bad[:20]},
    )


def _cut_off(context: Context, batch: Batch, first: Backward) -> CheckResult | None:
    """Parameters that stay without gradient after small steps although they move the answer."""
    silent = first.silent()
    step = first
    for number in range(1, _STEPS + 1):
        if not silent:
            return None
        small_step(context.module, step.gradients)
        step = backward(context, batch, seed=number)
        silent = [name for name in step.silent() if name in silent]
    parameters = dict(context.module.named_parameters())
    suspects = [name for name in silent if parameters[name].is_floating_point()]
    # One parameter per module, the largest: siblings are cut off together.
    chosen: dict[str, str] = {}
    for name in suspects:
        owner = name.rpartition(".")[0]
        if owner not in chosen or parameters[name].numel() > parameters[chosen[owner]].numel():
            chosen[owner] = name
    # Nearest to the output first: the cut is right behind it.
    asked = list(chosen.values())[::-1][:_ASKED]
    cut = [name for name in asked if influence(lambda: _main(context, batch), [parameters[name]]) > _MOVES]
    if not cut:
        return None
    module = cutting_module(context.module, lambda: context.forward(batch, train=True, grad=True))
    guilty = module if module is not None else owners(cut)[0]
    return context.failed(
        f"{len(silent)} parameters get no gradient although they move the output; the last of "
        f"them is {cut[0]}",
        measured=float(len(silent)),
        limit=0.0,
        unit="parameters",
        module=guilty,
        hint=_CUT_HINT,
        details={"cut_off": cut, "silent": silent[:20]},
    )


_CUT_HINT = (
    "look behind it for .detach(), .data, .item(), torch.no_grad() or a rounding that stops the gradient"
)


def _main(context: Context, batch: Batch) -> list[Tensor]:
    return [context.forward(batch).main]


def _sizes(context: Context, first: Backward) -> CheckResult:
    norms = {name: float(each.norm()) for name, each in first.gradients.items() if each is not None}
    parameters = dict(context.module.named_parameters())
    per_entry = {
        name: norm / math.sqrt(parameters[name].numel())
        for name, norm in norms.items()
        if norm > 0 and sum(size > 1 for size in parameters[name].shape) >= 2
    }
    strongest = max(per_entry.values(), default=0.0)
    weakest = min(per_entry, key=lambda name: per_entry[name], default="")
    ratio = per_entry[weakest] / strongest if strongest else 1.0
    wildest = max(norms, key=lambda name: norms[name], default="")
    unused = first.silent()
    details: dict[str, Any] = {
        "loss": first.loss,
        "largest": wildest,
        "largest_norm": norms.get(wildest, 0.0),
        "weakest": weakest,
        "weakest_ratio": ratio,
        "without_gradient": unused[:20],
    }
    if norms and norms[wildest] > EXPLODED:
        return context.failed(
            f"the gradient of {wildest} has norm {norms[wildest]:.3g}",
            measured=norms[wildest],
            limit=EXPLODED,
            unit="norm",
            module=owners([wildest])[0],
            details=details,
            hint="normalise before this module, or draw its weights smaller",
        )
    if ratio < VANISHED:
        return context.failed(
            f"the gradient vanishes: {weakest} gets {ratio:.1e} of what the strongest matrix gets",
            measured=ratio,
            limit=VANISHED,
            unit="ratio",
            module=owners([weakest])[0],
            details=details,
            hint="add residual paths or normalisation between it and the output",
        )
    extra = f"; {len(unused)} get none" if unused else ""
    return context.passed(
        f"gradients reach {len(norms) - sum(norm == 0 for norm in norms.values())} parameters{extra}, "
        f"norms up to {norms.get(wildest, 0.0):.3g}",
        measured=norms.get(wildest, 0.0),
        limit=EXPLODED,
        unit="norm",
        details=details,
    )


CHECKS.add(
    Check(
        "gradient-flow",
        tier=1,
        title="gradient flow",
        proves=(
            "A training loss reaches every parameter that moves the answer, with gradients of a sane size."
        ),
        run=gradient_flow,
    )
)
