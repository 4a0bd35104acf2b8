"""Who is bypassed: given the dead parameters, the modules that should have worked and did not.

Pure reasoning on names. In a deep stack the blocks are built alike, so a part that is dead in one block and
alive in its twin of another block was left out by mistake. Outside of stacks an idle module may be an
optional branch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from torchstone.adapt.stack import Siblings, sibling_groups


@dataclass(frozen=True)
class Bypass:
    """One module all of whose parameters are dead."""

    name: str
    ran: bool
    twin: str | None
    """The same part of another block, which works."""
    certain: bool
    """False where a design may want it: the last block's answer left out, a list of optional heads."""


def bypassed(
    module: nn.Module, dead: list[str], ran: set[str], stacks: list[Siblings], complete: bool
) -> list[Bypass]:
    """Outermost dead modules inside repeated groups, the certain ones first.

    `complete`: every input that the model could take was given.
    """
    gone = _all_dead(module, set(dead))
    found: dict[str, Bypass] = {}
    for group in sibling_groups(module):
        deep = any(group.names == stack.names for stack in stacks)
        for place, member in enumerate(group.names):
            for name in sorted(gone, key=len):
                if _inside(name, member) and not any(_inside(name, other) for other in found):
                    found[name] = _judge(name, member, place, group, gone, ran, deep, complete)
    return sorted(found.values(), key=lambda each: not each.certain)


def _judge(
    name: str,
    member: str,
    place: int,
    group: Siblings,
    gone: set[str],
    ran: set[str],
    deep: bool,
    complete: bool,
) -> Bypass:
    tail = name[len(member) :]
    did_run = name in ran or any(other.startswith(f"{name}.") for other in ran)
    twins = [f"{other}{tail}" for other in group.names if other != member]
    working = [twin for twin in twins if twin not in gone and (twin in ran or _has_inner(twin, ran))]
    # Nothing after it works either: the last block's answer, or what it prepares for a next one, may be
    # left out.
    is_tail = did_run and not any(f"{other}{tail}" in working for other in group.names[place + 1 :])
    # Dead in every block alike: for a whole part no design explains it, unless it waits for an input; a part
    # of a part may be one that selects, where there is nothing to select from.
    in_vain = all(twin in gone for twin in twins) and name.count(".") == member.count(".") + 1
    certain = deep and ((bool(working) and not is_tail) or (in_vain and complete))
    return Bypass(name, did_run, working[0] if working else None, certain)


def _all_dead(module: nn.Module, dead: set[str]) -> set[str]:
    """Names of modules that have parameters, all of them dead."""
    gone = set()
    for name, each in module.named_modules():
        own = [f"{name}.{part}" if name else part for part, _ in each.named_parameters()]
        if name and own and all(part in dead for part in own):
            gone.add(name)
    return gone


def _has_inner(name: str, ran: set[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in ran)


def _inside(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")
