"""A study on the terminal: the table of its arms, and of its proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from torchstone.study.plan import Plan
    from torchstone.study.prove.proof import Proof


def plan_table(plan: Plan) -> RenderableType:
    """Arms with what they set and claim, then what was dropped, then how many cells there are."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from torchstone.study.plan_info import dropped_sentence

    study = plan.study
    title = Text(f"{study.name} ({study.kind})  {study.describe}")
    is_named = study.kind == "ablation"  # the id of a matrix's arm says all that its name does
    names = ("name",) if is_named else ()
    table = Table("id", "parent", *names, "sets", "claims", box=None, pad_edge=False)
    for arm in plan.chosen_arms:
        name = (arm.name,) if is_named else ()
        cells = (arm.id, arm.parent or "", *name, assigned(arm.set), assigned(arm.claims, " "))
        table.add_row(*map(escape, cells))
    seeds = sorted({cell.seed for cell in plan.cells})
    count = f"{len(plan.cells)} cells: {len(plan.chosen_arms)} arms, seeds {', '.join(map(str, seeds))}"
    lines = [Text(each) for each in (dropped_sentence(plan), count) if each]
    return Group(title, table, *lines)


def proof_table(proof: Proof, study: str, *, quiet: bool = False, everything: bool = False) -> RenderableType:
    """One row for each step, then what does not hold with the command to look closer."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    is_named = proof.kind == "ablation"
    names = ("name",) if is_named else ()
    heads = ("id", *names, "verdict", "parameters", "FLOPs", "KV bytes/token", "claims")
    table = Table(*heads, box=None, pad_edge=False)
    colours = {"pass": "green", "fail": "red", "error": "red"}
    lines: list[RenderableType] = []
    for step in proof.steps:
        held = f"{len(step.claims) - len(step.broken)}/{len(step.claims)}"
        numbers = [_number(each) for each in (step.parameters, step.flops, step.kv_bytes_per_token)]
        status = Text(step.status, style=colours.get(step.status, ""))
        name = (escape(step.name),) if is_named else ()
        table.add_row(escape(step.id), *name, status, *numbers, held)
        for claim in step.claims if everything else step.broken:
            sign = "holds" if claim.holds else "fails"
            said = f"expected {claim.expected}; measured {claim.measured}"
            lines.append(Text(f"{step.id}  {sign}  {claim.claim}: {said}"))
        if step.broken and not everything:
            option = "--steps" if proof.kind == "ablation" else "--only"
            lines.append(Text(f"   look closer:  torchstone study check {study} {option} {step.id} -v"))
    lines += [Text(f"note: {each}") for each in proof.notes]
    count = sum(len(step.claims) for step in proof.steps)
    proven = "steps" if is_named else "arms"
    total = Text(f"{proof.verdict}: {len(proof.steps)} {proven}, {count} claims, {proof.seconds:.1f} s")
    return Group(*lines, total) if quiet else Group(table, *lines, total)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def assigned(settings: Mapping[str, Any], sign: str = " = ") -> str:
    """`model.d_ff = 256, optim.name = adamw`"""
    return ", ".join(f"{key}{sign}{_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, Mapping):
        return "{ " + assigned(value) + " }"
    return ("y" if value else "n") if isinstance(value, bool) else str(value)
