"""dead-parameters: every parameter can move the answer, and no block of a stack is bypassed.

Reachability is asked by gradient from every answer, under noise on all weights (so that zero starts hide
nothing), in evaluation and in training mode. What stays unreached is asked again by moving it. Then its place
decides: a part whose counterpart in a sibling block works must work too; an unused branch (a pooler, a mask
token) is told, not condemned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._seeds import seed_everything
from torchstone.adapt.stack import Siblings, sibling_groups, stacks_of, traced
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import influence, owners, shake
from torchstone.checks.tier1.bypass import Bypass, bypassed
from torchstone.checks.tier1.objective import answers, spread
from torchstone.checks.tier1.settled import settle

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_REROUTES = 4
"""Draws of new weights that an expert gets to be chosen in."""

_ASKED = 24
_MOVES = 1e-6
_NEGLIGIBLE = 0.01
"""Share of the values that unused vectors (mask tokens, spare scales) may have without a warning."""


@dataclass
class Reach:
    """What the probes found: parameters that nothing reaches, and modules that ran."""

    dead: list[str] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)


def dead_parameters(context: Context) -> CheckResult:
    parameters = dict(context.module.named_parameters())
    if not parameters:
        return context.skipped("the model has no parameters")
    settle(context)
    side = context.batch(1, length=context.plan.side_length)
    stacks = stacks_of(context.module, lambda: context.forward(side))
    reach = find_dead(context)
    if not reach.dead:
        return context.passed(
            f"all {len(parameters)} parameters reach the output", measured=0.0, limit=0.0, unit="parameters"
        )
    complete = not waiting_inputs(context)
    guilty = [
        each for each in bypassed(context.module, reach.dead, reach.ran, stacks, complete) if each.certain
    ]
    if guilty:
        return _convicted(context, guilty[0], reach)
    return _weighed(context, parameters, reach, stacks)


def _convicted(context: Context, guilty: Bypass, reach: Reach) -> CheckResult:
    how = "runs, but its result is thrown away" if guilty.ran else "is never called"
    return context.failed(
        f"{guilty.name} {how}" + (f", while {guilty.twin} works" if guilty.twin else ""),
        measured=float(len(reach.dead)),
        limit=0.0,
        unit="parameters",
        module=guilty.name,
        hint="call it in forward and pass its result on, or remove it",
        details={"dead": reach.dead[:40]},
    )


def _in(name: str, member: str) -> bool:
    return name.startswith(f"{member}.")


def _weighed(
    context: Context, parameters: dict[str, nn.Parameter], reach: Reach, stacks: list[Siblings]
) -> CheckResult:
    """No block is bypassed: how much is dead, and did the modules that hold it run?"""
    total = sum(each.numel() for each in parameters.values())
    dead = sum(parameters[name].numel() for name in reach.dead)
    in_stack = [
        name for stack in stacks for member in stack.names for name in reach.dead if _in(name, member)
    ]
    ran = sum(
        parameters[name].numel() for name in reach.dead
        if name.rpartition(".")[0] in reach.ran and name not in in_stack
    )  # fmt: skip
    names = owners(reach.dead)
    where = ", ".join(name or "the model itself" for name in names[:3]) + (" and others" if names[3:] else "")
    fields: dict[str, Any] = {
        "measured": dead / total,
        "limit": 0.0,
        "unit": "share of values",
        "module": names[0],
        "details": {"dead": reach.dead[:40]},
    }
    idle_inputs = waiting_inputs(context)
    if ran > total / 2 or (dead > total / 2 and not idle_inputs and not in_stack):
        return context.failed(
            f"{dead / total:.0%} of the values never move the output, in {where}",
            hint="follow the main input through forward: most of the model is not on its way",
            **fields,
        )
    vectors = all(sum(size > 1 for size in parameters[name].shape) < 2 for name in reach.dead)
    if vectors and dead < _NEGLIGIBLE * total:
        return context.passed(
            f"all weight matrices reach the output; {len(reach.dead)} vectors do not, in {where}", **fields
        )
    reason = f"; they may wait for {', '.join(idle_inputs)}" if idle_inputs else ""
    return context.warned(
        f"{len(reach.dead)} parameters never move the output for these inputs, in {where}{reason}",
        hint="an unused branch, or one that needs an optional input; remove it if it is never used",
        **fields,
    )


def waiting_inputs(context: Context) -> list[str]:
    """Data that `forward` could take and that the example inputs do not hold."""
    given = set(context.batch(1))
    wanted = ("pixels", "audio", "decoder_ids", "ids", "intermediate", "unknown")
    return [
        each.name for each in context.signature.arguments
        if each.role in wanted and each.natural not in given and each.name not in given
    ]  # fmt: skip


def find_dead(context: Context) -> Reach:
    """Ask by gradient under several weights, modes and inputs; then move what is left."""
    module = context.module
    _require_all_gradients(module)
    unreached = {
        name: each for name, each in module.named_parameters() if each.is_floating_point() and each.numel()
    }
    reach = Reach()
    shake(module, seed=context.seed + 1)
    for train in (False, True):
        for seed, batch in enumerate(_batches(context)):
            _strike_out(context, batch, unreached, reach.ran, train, seed)
            if not unreached:
                return reach
    for draw in range(_REROUTES):
        # Experts that no token chose: under other weights they are chosen; a bypassed module never runs.
        if not unreached or not _has_idle(module, reach.ran):
            break
        shake(module, seed=context.seed + 100 + draw, strength=2.0)
        _strike_out(context, context.batch(seed=draw + 7), unreached, reach.ran, False, draw)
    _drop_movers(context, unreached)
    reach.dead = list(unreached)
    return reach


def _batches(context: Context) -> list[Batch]:
    """Ordinary inputs, then with every optional text input that the signature knows."""
    plain, other = context.batch(seed=0), context.batch(seed=1)
    extra: Batch = dict(other)
    ids = other.get("input_ids")
    if isinstance(ids, Tensor):
        for role, name, make in (
            ("mask", "attention_mask", torch.ones_like),
            ("token_types", "token_type_ids", torch.zeros_like),
        ):
            if name not in extra and any(each.role == role for each in context.signature.arguments):
                extra[name] = make(ids)
    return [plain, other, extra] if set(extra) != set(other) else [plain, other]


def _strike_out(
    context: Context, batch: Batch, unreached: dict[str, nn.Parameter], ran: set[str], train: bool, seed: int
) -> None:
    """Strike out what gets a gradient, and note which modules ran."""
    named = {name: each for name, each in context.module.named_modules() if name}
    with context.mode(train), torch.enable_grad(), traced(named) as trace:
        seed_everything(context.seed + seed)
        total = spread(context.adapter(**batch), seed)
    ran.update(trace.calls)
    if not total.requires_grad or not unreached:
        return
    try:
        found = torch.autograd.grad(total, list(unreached.values()), allow_unused=True)
    except RuntimeError:
        # In-place tricks of evaluation mode can forbid a backward pass; training mode is asked too.
        if train:
            raise
        return
    for name, gradient in zip(list(unreached), found, strict=True):
        if gradient is not None and bool((gradient != 0).any()):
            del unreached[name]


def _require_all_gradients(module: nn.Module) -> None:
    """Frozen parameters are asked like all others; the runner puts the flags back."""
    for each in module.parameters():
        if each.is_floating_point():
            each.requires_grad_(True)


def _has_idle(module: nn.Module, ran: set[str]) -> bool:
    groups: list[Siblings] = sibling_groups(module)
    return any(name not in ran for group in groups for name in group.names)


def _drop_movers(context: Context, unreached: dict[str, nn.Parameter]) -> None:
    """A parameter without gradient that still moves the answer is cut off: gradient-flow judges it."""
    batch = context.batch(seed=0)

    def answer() -> list[Tensor]:
        return answers(context.forward(batch))

    by_owner: dict[str, list[str]] = {}
    for name in unreached:
        by_owner.setdefault(name.rpartition(".")[0], []).append(name)
    for names in list(by_owner.values())[:_ASKED]:
        if influence(answer, [unreached[name] for name in names], strength=0.5) > _MOVES:
            for name in names:
                del unreached[name]


CHECKS.add(
    Check(
        "dead-parameters",
        tier=1,
        title="dead weights",
        proves="Every parameter can move the output, and no block is bypassed.",
        run=dead_parameters,
    )
)
