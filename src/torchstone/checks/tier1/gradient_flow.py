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
from torch.nn.modules.batchnorm import _NormBase

from torchstone.adapt.stack import stacks_of
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import Backward, backward, cutting_module, influence, owners, small_step
from torchstone.checks.tier1.finite import first_bad_module
from torchstone.checks.tier1.settled import settle

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

EXPLODED = 1e5
"""|gradient| times |parameter|: what the loss would change by if the parameter doubled. Free of scale: a zero
embedding in front of a norm, whose bare gradient is huge, is not condemned."""

APART = 1e6
"""Between the gradients of one matrix and its twin in another block of the stack."""

FAINT = 1e-12
"""Gradient per entry relative to the strongest matrix. Layer scales of 1e-6 lie far above."""

_STEPS = 2
_ASKED = 12
_MOVES = 1e-5


def gradient_flow(context: Context) -> CheckResult:
    if not any(each.requires_grad for each in context.module.parameters()):
        return context.skipped("no parameter requires a gradient")
    settle(context)
    # Batch norms over two rows and one position would amplify gradients without bound.
    rows = 8 if any(isinstance(each, _NormBase) for each in context.module.modules()) else None
    batch = context.batch(rows and min(rows, context.plan.max_batch_size))
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
    wild = _not_finite(context, first)
    if wild is not None:
        return wild
    silent = silent_after_steps(context, batch, first)
    cut = _cut_off(context, batch, first, silent)
    if cut is not None:
        return cut
    context.kept.restore()
    return _sizes(context, first, silent)


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


def silent_after_steps(context: Context, batch: Batch, first: Backward) -> list[str]:
    """Parameters without gradient, now and after small steps, which open what starts at zero."""
    silent = first.silent()
    step = first
    for number in range(1, _STEPS + 1):
        if silent:
            small_step(context.module, step.gradients)
            step = backward(context, batch, seed=number)
            silent = [name for name in step.silent() if name in silent]
    return silent


def _cut_off(context: Context, batch: Batch, first: Backward, silent: list[str]) -> CheckResult | None:
    """Those among the silent that move the answer nevertheless."""
    parameters = dict(context.module.named_parameters())
    suspects = [name for name in silent if parameters[name].is_floating_point()]
    # One parameter per module, the largest: siblings are cut off together.
    chosen: dict[str, str] = {}
    for name in suspects:
        owner = name.rpartition(".")[0]
        if owner not in chosen or parameters[name].numel() > parameters[chosen[owner]].numel():
            chosen[owner] = name
    saturated = _moving_in_evaluation(context, batch, first, suspects)
    chosen = {owner: name for owner, name in chosen.items() if name not in saturated}
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


def _moving_in_evaluation(context: Context, batch: Batch, first: Backward, suspects: list[str]) -> set[str]:
    """Parameters on the graph whose gradient is zero only in training mode: a saturated unit, no cut."""
    on_graph = {name for name in suspects if first.gradients[name] is not None}
    if not on_graph:
        return set()
    return on_graph - set(backward(context, batch, train=False).silent())


_CUT_HINT = (
    "look behind it for .detach(), .data, .item(), torch.no_grad() or a rounding that stops the gradient"
)


def _main(context: Context, batch: Batch) -> list[Tensor]:
    return [context.forward(batch).main]


def _sizes(context: Context, first: Backward, unused: list[str]) -> CheckResult:
    norms = {name: float(each.norm()) for name, each in first.gradients.items() if each is not None}
    parameters = dict(context.module.named_parameters())
    pull = {name: norm * float(parameters[name].detach().norm()) for name, norm in norms.items()}
    per_entry = {
        name: norm / math.sqrt(parameters[name].numel())
        for name, norm in norms.items()
        if norm > 0 and sum(size > 1 for size in parameters[name].shape) >= 2
    }
    strongest = max(per_entry.values(), default=0.0)
    weakest = min(per_entry, key=lambda name: per_entry[name], default="")
    ratio = per_entry[weakest] / strongest if strongest else 1.0
    wildest = max(pull, key=lambda name: pull[name], default="")
    details: dict[str, Any] = {
        "loss": first.loss,
        "largest": wildest,
        "largest_norm": norms.get(wildest, 0.0),
        "largest_pull": pull.get(wildest, 0.0),
        "weakest": weakest,
        "weakest_ratio": ratio,
        "without_gradient": unused[:20],
    }
    if pull and pull[wildest] > EXPLODED:
        return context.failed(
            f"the gradient explodes: for {wildest} it has norm {norms[wildest]:.3g}, "
            f"a loss change of {pull[wildest]:.3g} per doubling",
            measured=pull[wildest],
            limit=EXPLODED,
            unit="nats per doubling",
            module=owners([wildest])[0],
            details=details,
            hint="normalise before this module, or draw its weights smaller",
        )
    twins = _furthest_twins(context, per_entry)
    if twins is not None and twins[2] > APART:
        weak, strong, factor = twins
        return context.failed(
            f"the gradient fades with depth: {weak} gets 1/{factor:.0e} of what its twin {strong} gets",
            measured=factor,
            limit=APART,
            unit="ratio",
            module=owners([weak])[0],
            details=details,
            hint="add residual paths or normalisation between the two",
        )
    if ratio < FAINT:
        return context.warned(
            f"the gradient is faint: {weakest} gets {ratio:.1e} of what the strongest matrix gets",
            measured=ratio,
            limit=FAINT,
            unit="ratio",
            module=owners([weakest])[0],
            details=details,
            hint="weights next to zero on its way? see parameter-initialization",
        )
    if len(unused) > len(first.gradients) // 2:
        return context.warned(
            f"only {len(first.gradients) - len(unused)} of {len(first.gradients)} parameters get a gradient",
            measured=float(len(unused)),
            limit=len(first.gradients) / 2,
            unit="parameters",
            module=owners(unused)[0],
            details=details,
            hint="see dead-parameters",
        )
    extra = f"; {len(unused)} get none" if unused else ""
    return context.passed(
        f"gradients reach {len(first.gradients) - len(unused)} parameters{extra}, the strongest in {wildest}",
        measured=pull.get(wildest, 0.0),
        limit=EXPLODED,
        unit="nats per doubling",
        details=details,
    )


def _furthest_twins(context: Context, per_entry: dict[str, float]) -> tuple[str, str, float] | None:
    """The weakest and the strongest of one matrix over the blocks of a stack, where they differ most."""
    found: list[tuple[str, str, float]] = []
    side = context.batch(1, length=context.plan.side_length)
    for stack in stacks_of(context.module, lambda: context.forward(side)):
        twins: dict[str, list[str]] = {}
        for member in stack.names:
            for name in per_entry:
                if name.startswith(f"{member}."):
                    twins.setdefault(name[len(member) :], []).append(name)
        for names in twins.values():
            weak, strong = (pick(names, key=lambda name: per_entry[name]) for pick in (min, max))
            found.append((weak, strong, per_entry[strong] / per_entry[weak]))
    return max(found, key=lambda each: each[2], default=None)


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
