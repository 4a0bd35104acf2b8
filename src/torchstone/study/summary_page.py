"""A study's findings as HTML, Markdown, CSV and a plain object."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchstone._errors import MissingExtra
from torchstone._files import write_text
from torchstone.report import page
from torchstone.report.figure_file import inline_pictures, write_png
from torchstone.report.inert import inert
from torchstone.report.numbers import duration, number
from torchstone.report.page import text
from torchstone.study.summary import COSTS, ArmSummary, Summary
from torchstone.study.summary_picture import heat_map, ladder, quality_against

SCHEMA = "torchstone.study-report/1"
HEADER = ("arm", "name", "seeds", "mean", "spread", "against", "difference", "95 % interval", *COSTS)


def write_report(found: Summary, folder: Path) -> list[Path]:
    """`report.html`, `report.md`, `report.csv`, and the ladder as `report.png` for the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn, line = _ladder_beside(found, folder)
    files = {"report.html": html_page(found), "report.md": markdown(found, line), "report.csv": as_csv(found)}
    for name, content in files.items():
        write_text(folder / name, content)
    return [*(folder / name for name in files), *drawn]


def _ladder_beside(found: Summary, folder: Path) -> tuple[list[Path], str]:
    """The picture's file, and the line of Markdown that shows it, or says why there is none."""
    if not any(each.values for each in found.arms):
        return [], ""
    try:
        path = write_png(ladder(found), folder / "report.png")
    except MissingExtra as missing:
        return [], f"No picture: {missing.what}; {missing.next}"
    return [path], f"![{_plain(found.study.metric)} of each arm]({path.name})"


def rows(found: Summary) -> Iterator[tuple[str, ...]]:
    """The table as text, one row for each arm, in the study's order."""
    for each in found.arms:
        gap = each.difference
        interval = (
            "" if gap is None or gap.interval is None else "{} to {}".format(*map(number, gap.interval))
        )
        costs = [_cost(name, each.costs.get(name)) for name in COSTS]
        yield (
            each.arm.id,
            each.arm.name,
            f"{len(each.values)}/{each.num_cells}",
            number(each.mean, 5),
            number(each.spread, 3),
            each.arm.parent or "",
            "" if gap is None else f"{gap.mean:+.4g}",
            interval,
            *costs,
        )


def _cost(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return duration(value) if name == "seconds" else number(int(value) if value == int(value) else value)


def report_info(found: Summary) -> dict[str, Any]:
    """The object that `study report --json` prints."""
    return {
        "schema": SCHEMA,
        "study": found.study.name,
        "metric": found.study.metric,
        "lower_is_better": found.lower_is_better,
        "best": None if found.best is None else found.best.arm.id,
        "arms": [_arm_info(each) for each in found.arms],
        "best_by_axis": {
            axis: {value: best.arm.id for value, best in values.items()}
            for axis, values in found.best_by_axis.items()
        },
        "frontier": {cost: [each.arm.id for each in found.frontier(cost)] for cost in COSTS},
        "notes": list(found.notes),
    }


def _arm_info(each: ArmSummary) -> dict[str, Any]:
    gap = each.difference
    return {
        "id": each.arm.id,
        "parent": each.arm.parent,
        "name": each.arm.name,
        "values": {str(seed): value for seed, value in each.values.items()},
        "mean": each.mean,
        "spread": each.spread,
        "difference": None
        if gap is None
        else {"mean": gap.mean, "interval": gap.interval and list(gap.interval), "seeds": gap.num_seeds},
        "costs": dict(each.costs),
    }


def as_csv(found: Summary) -> str:
    """Numbers in full, one line for each arm and seed; arms without a value have one line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "parent", "name", "seed", found.study.metric, *COSTS])
    for each in found.arms:
        costs = [each.costs.get(name, "") for name in COSTS]
        measured: list[tuple[object, object]] = [*each.values.items()]
        for seed, value in measured or [("", "")]:
            writer.writerow([each.arm.id, each.arm.parent or "", each.arm.name, seed, value, *costs])
    return out.getvalue()


def markdown(found: Summary, picture: str = "") -> str:
    """`picture`: a line of Markdown above the table."""
    lines = [f"# {_plain(found.study.name)}", "", _plain(found.study.describe), ""]
    lines += [f"- {_plain(each)}" for each in (*_sentences(found), *found.notes)]
    lines += ["", picture] if picture else []
    lines += ["", f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    lines += [f"| {' | '.join(map(_plain, row))} |" for row in rows(found)]
    return "\n".join(lines) + "\n"


def _plain(value: str) -> str:
    return inert(value).replace("|", "\\|").replace("\n", " ")


def _sentences(found: Summary) -> Iterator[str]:
    way = "lower" if found.lower_is_better else "higher"
    yield f"metric {found.study.metric}, {way} is better; spread is the standard deviation over seeds"
    if found.best is not None:
        yield f"best: {found.best.arm.id} ({found.best.arm.name}), {number(found.best.mean, 5)}"
    for axis, values in found.best_by_axis.items():
        told = ", ".join(f"{value} {number(best.mean)}" for value, best in values.items())
        yield f"best by {axis}: {told}"
    for cost in COSTS:
        arms = found.frontier(cost)
        if len({each.costs[cost] for each in arms}) > 1:
            yield f"not beaten in both quality and {cost}: {', '.join(each.arm.id for each in arms)}"


def html_page(found: Summary) -> str:
    parts = [f"<h1>{text(found.study.name)}</h1>", f"<p>{text(found.study.describe)}</p>"]
    parts += [
        "<ul>" + "".join(f"<li>{text(each)}</li>" for each in (*_sentences(found), *found.notes)) + "</ul>"
    ]
    if any(each.values for each in found.arms):
        told = ", ".join(f"{each.arm.id} {number(each.mean)}" for each in found.arms)
        parts.append(
            inline_pictures(lambda theme: ladder(found, theme), f"{found.study.metric} by arm: {told}")
        )
        axes = [each.name for each in found.study.axes if len(each.values) > 1]
        if len(axes) >= 2:
            parts.append(
                inline_pictures(lambda theme: heat_map(found, axes[0], axes[1], theme), f"heat map: {told}")
            )
        for cost in COSTS:
            if len({each.costs[cost] for each in found.arms if cost in each.costs}) > 1:
                parts.append(
                    inline_pictures(
                        lambda theme, cost=cost: quality_against(found, cost, theme),  # type: ignore[misc]
                        f"{found.study.metric} against {cost}: {told}",
                    )
                )
    parts.append(page.table(HEADER, ([text(cell) for cell in row] for row in rows(found)), caption="Arms"))
    return page.page(found.study.name, "\n".join(parts))
