"""A study on the terminal: the table of its arms, and of its proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from torchstone.study.plan import Plan


def plan_table(plan: Plan) -> RenderableType:
    """Arms with what they set and claim, then what was dropped, then how many cells there are."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from torchstone.study.plan_info import dropped_sentence

    study = plan.study
    title = Text(f"{study.name} ({study.kind})  {study.describe}")
    table = Table("id", "parent", "name", "sets", "claims", box=None, pad_edge=False)
    for arm in plan.chosen_arms:
        cells = (arm.id, arm.parent or "", arm.name, assigned(arm.set), assigned(arm.claims, " "))
        table.add_row(*map(escape, cells))
    seeds = sorted({cell.seed for cell in plan.cells})
    count = f"{len(plan.cells)} cells: {len(plan.chosen_arms)} arms, seeds {', '.join(map(str, seeds))}"
    lines = [Text(each) for each in (dropped_sentence(plan), count) if each]
    return Group(title, table, *lines)


def assigned(settings: Mapping[str, Any], sign: str = " = ") -> str:
    """`model.d_ff = 256, optim.name = adamw`"""
    return ", ".join(f"{key}{sign}{_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, Mapping):
        return "{ " + assigned(value) + " }"
    return ("y" if value else "n") if isinstance(value, bool) else str(value)
