"""dead-parameters: every parameter can move the answer, and no block of a stack is bypassed.

Reachability is asked by gradient from every answer, under noise on all weights (so that zero starts hide
nothing), in evaluation and in training mode. What stays unreached is asked again by moving it. Then its place
decides: a member of a stack whose siblings work must work too; an unused branch (a pooler, a mask token) is
told, not condemned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone._seeds import seed_everything
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.backward import influence, owners, shake
from torchstone.checks.tier1.objective import answers, spread
from torchstone.checks.tier1.stack import Siblings, sibling_groups, traced

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_REROUTES = 4
"""Draws of new weights that an expert gets to be chosen in."""

_ASKED = 24
_MOVES = 1e-6


@dataclass(frozen=True)
class Bypassed:
    """A whole member of a group of siblings that does nothing while others work."""

    name: str
    ran: bool
    is_tail: bool
    """Last of its group: its answer may be left out on purpose."""


def dead_parameters(context: Context) -> CheckResult:
    parameters = dict(context.module.named_parameters())
    if not parameters:
        return context.skipped("the model has no parameters")
    dead, ran = find_dead(context)
    total = sum(each.numel() for each in parameters.values())
    lost = sum(parameters[name].numel() for name in dead)
    if not dead:
        return context.passed(
            f"all {len(parameters)} parameters reach the output", measured=0.0, limit=0.0, unit="parameters"
        )
    details: dict[str, Any] = {"dead": dead[:40], "share": lost / total}
    blocks = bypassed(context, dead, ran)
    guilty = [each for each in blocks if not each.ran or not each.is_tail]
    if guilty:
        first = guilty[0]
        how = "runs, but its result is thrown away" if first.ran else "is never called"
        return context.failed(
            f"{first.name} {how} while its siblings work",
            measured=float(len(dead)),
            limit=0.0,
            unit="parameters",
            module=first.name,
            details=details,
            hint="call it in forward and pass its result on, or remove it",
        )
    discarded = [name for name in dead if _is_discarded_map(context.module, name, ran, blocks)]
    if discarded:
        return context.failed(
            f"{owners(discarded)[0]} runs, but its result does not reach the output",
            measured=float(len(dead)),
            limit=0.0,
            unit="parameters",
            module=owners(discarded)[0],
            details=details,
            hint="its result is overwritten or multiplied by zero; use it or remove the module",
        )
    if lost > total / 2:
        return context.failed(
            f"{len(dead)} of {len(parameters)} parameters ({lost / total:.0%} of the values) "
            "never move the output",
            measured=lost / total,
            limit=0.5,
            unit="share",
            module=owners(dead)[0],
            details=details,
            hint="follow the main input through forward: most of the model is not on its way",
        )
    names = owners(dead)
    return context.warned(
        f"{len(dead)} parameters never move the output for these inputs, in "
        f"{', '.join(names[:3]) or 'the model itself'}" + (" and others" if len(names) > 3 else ""),
        measured=lost / total,
        limit=0.0,
        unit="share",
        module=names[0],
        details=details,
        hint="an unused branch, or one that needs an optional input; remove it if it is never used",
    )


def find_dead(context: Context) -> tuple[list[str], set[str]]:
    """Names of parameters that nothing reaches, and names of the modules that ran."""
    module = context.module
    _require_all_gradients(module)
    parameters = {
        name: each for name, each in module.named_parameters() if each.is_floating_point() and each.numel()
    }
    unreached = dict(parameters)
    ran: set[str] = set()
    shake(module, seed=context.seed + 1)
    for train in (False, True):
        for seed, batch in enumerate(_batches(context)):
            if not unreached:
                return [], ran
            _reach(context, batch, unreached, ran, train, seed)
    for draw in range(_REROUTES):
        # Experts that no token chose: under other weights they are chosen; a bypassed module never runs.
        if not unreached or not _has_idle(module, ran):
            break
        shake(module, seed=context.seed + 100 + draw, strength=2.0)
        _reach(context, context.batch(seed=draw + 7), unreached, ran, False, draw)
    _drop_movers(context, unreached)
    return list(unreached), ran


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


def _reach(
    context: Context, batch: Batch, unreached: dict[str, nn.Parameter], ran: set[str], train: bool, seed: int
) -> None:
    """Strike out what gets a gradient, and note which modules ran."""
    named = {name: each for name, each in context.module.named_modules() if name}
    with context.mode(train), torch.enable_grad(), traced(named) as trace:
        seed_everything(context.seed + seed)
        total = spread(context.adapter(**batch), seed)
    ran.update(trace.calls)
    if not total.requires_grad:
        return
    found = torch.autograd.grad(total, list(unreached.values()), allow_unused=True)
    for name, gradient in zip(list(unreached), found, strict=True):
        if gradient is not None and bool((gradient != 0).any()):
            del unreached[name]


def _require_all_gradients(module: nn.Module) -> None:
    """Frozen parameters are asked like all others; the runner puts the flags back."""
    for each in module.parameters():
        if each.is_floating_point():
            each.requires_grad_(True)


def _has_idle(module: nn.Module, ran: set[str]) -> bool:
    return any(name not in ran for group in sibling_groups(module) for name in group.names)


def _drop_movers(context: Context, unreached: dict[str, nn.Parameter]) -> None:
    """A parameter without gradient that still moves the answer is cut off, not dead: gradient-flow judges
    it.
    """
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


def bypassed(context: Context, dead: list[str], ran: set[str]) -> list[Bypassed]:
    """Whole members of sibling groups that are dead while a sibling is alive, outermost first."""
    gone = set(dead)
    found: list[Bypassed] = []
    for group in sibling_groups(context.module):
        states = [
            _is_dead(name, member, gone) for name, member in zip(group.names, group.modules, strict=True)
        ]
        if all(states):
            continue
        for place, (name, is_dead) in enumerate(zip(group.names, states, strict=True)):
            if is_dead and not any(name.startswith(f"{outer.name}.") for outer in found):
                did_run = name in ran or _ran_inside(name, ran)
                found.append(Bypassed(name, did_run, all(states[place:])))
    return found


def _ran_inside(name: str, ran: set[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in ran)


def _is_dead(name: str, member: nn.Module, gone: set[str]) -> bool:
    own = [f"{name}.{each}" for each, _ in member.named_parameters()]
    return bool(own) and all(each in gone for each in own)


def _is_discarded_map(module: nn.Module, name: str, ran: set[str], blocks: list[Bypassed]) -> bool:
    """A matrix of a module that ran inside a working member of a stack, and yet does nothing."""
    owner = name.rpartition(".")[0]
    matrix = sum(size > 1 for size in module.get_parameter(name).shape) >= 2
    if not matrix or owner not in ran or any(owner.startswith(each.name) for each in blocks):
        return False
    # The last member often computes something for a next one that does not exist.
    return any(_inside_working_member(owner, group) for group in sibling_groups(module))


def _inside_working_member(owner: str, group: Siblings) -> bool:
    return any(owner.startswith(f"{member}.") for member in group.names[:-1])


CHECKS.add(
    Check(
        "dead-parameters",
        tier=1,
        title="dead weights",
        proves="Every parameter can move the output, and no block is bypassed.",
        run=dead_parameters,
    )
)
