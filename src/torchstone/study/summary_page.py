"""A study's findings as HTML, Markdown, CSV and a plain object."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import MissingExtra
from torchstone._files import write_text
from torchstone.report import page
from torchstone.report.figure_file import inline_pictures, write_png
from torchstone.report.inert import inert
from torchstone.report.numbers import duration, number
from torchstone.report.page import text
from torchstone.report.palette import LIGHT, Theme
from torchstone.study.summary import COSTS, ArmSummary, Summary
from torchstone.study.summary_picture import heat_map, ladder, quality_against

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "torchstone.study-report/1"


def write_report(found: Summary, folder: Path) -> list[Path]:
    """`report.html`, `report.md` with its pictures, and `report.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, lines = _pictures_beside(found, folder)
    files = {
        "report.html": html_page(found),
        "report.md": markdown(found, lines),
        "report.csv": as_csv(found),
    }
    for name, content in files.items():
        write_text(folder / name, content)
    return [*(folder / name for name in files), *pictures]


def _pictures_beside(found: Summary, folder: Path) -> tuple[list[Path], list[str]]:
    """Their files, and the lines of Markdown that show them, or say why there are none."""
    try:
        drawn = {name: draw(LIGHT) for name, draw in _pictures(found).items()}
    except MissingExtra as missing:
        return [], [f"No picture: {missing.what}; {missing.next}"]
    paths = {name: folder / f"report-{name}.png" for name in drawn}
    for name, figure in drawn.items():
        write_png(figure, paths[name])
    return list(paths.values()), [
        f"![{_plain(name.replace('-', ' '))}]({path.name})" for name, path in paths.items()
    ]


def _pictures(found: Summary) -> dict[str, Callable[[Theme], Figure]]:
    """Name -> how it is drawn: the arms, a heat map for each pair of axes, quality against what differs."""
    if not any(each.values for each in found.arms):
        return {}
    drawn: dict[str, Callable[[Theme], Figure]] = {"arms": lambda theme: ladder(found, theme)}
    axes = [each.name for each in found.study.axes if len(each.values) > 1]
    for rows, columns in itertools.combinations(axes, 2):
        drawn[f"{rows}-{columns}"] = partial(heat_map, found, rows, columns)
    for cost in _differing(found):
        drawn[f"against-{cost}"] = partial(quality_against, found, cost)
    return drawn


def _differing(found: Summary) -> list[str]:
    """Costs that arms differ in."""
    return [
        name for name in COSTS if len({each.costs[name] for each in found.arms if name in each.costs}) > 1
    ]


def header(found: Summary) -> tuple[str, ...]:
    """Of the table. The id of a matrix's arm says what its name does; what all arms share is told once."""
    name = () if found.study.kind == "matrix" else ("name",)
    return (
        "arm",
        *name,
        "seeds",
        "mean",
        "spread",
        "against",
        "difference",
        "95 % interval",
        *_differing(found),
    )


def rows(found: Summary) -> Iterator[tuple[str, ...]]:
    """The table as text, one row for each arm, in the study's order."""
    differing = _differing(found)
    for each in found.arms:
        gap = each.difference
        interval = (
            "" if gap is None or gap.interval is None else "{} to {}".format(*map(number, gap.interval))
        )
        costs = [_cost(name, each.costs.get(name)) for name in differing]
        yield (
            each.arm.id,
            *(() if found.study.kind == "matrix" else (each.arm.name,)),
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


def markdown(found: Summary, pictures: Sequence[str] = ()) -> str:
    """`pictures`: lines of Markdown."""
    lines = [f"# {_plain(found.study.name)}", "", _plain(found.study.describe), ""]
    lines += [f"- {_plain(each)}" for each in (*_sentences(found), *found.notes)]
    heads = header(found)
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(map(_plain, row))} |" for row in rows(found)]
    for each in pictures:
        lines += ["", each]
    return "\n".join(lines) + "\n"


def _plain(value: str) -> str:
    return inert(value).replace("|", "\\|").replace("\n", " ")


def _sentences(found: Summary) -> Iterator[str]:
    way = "lower" if found.lower_is_better else "higher"
    yield f"metric {found.study.metric}, {way} is better; spread is the standard deviation over seeds"
    if found.best is not None:
        name = "" if found.study.kind == "matrix" else f" ({found.best.arm.name})"
        yield f"best: {found.best.arm.id}{name}, {number(found.best.mean, 5)}"
    for axis, values in found.best_by_axis.items():
        told = ", ".join(f"{value} {number(best.mean)}" for value, best in values.items())
        yield f"best by {axis}: {told}"
    differing = _differing(found)
    shared = {
        name: next(each.costs[name] for each in found.arms if name in each.costs)
        for name in COSTS
        if name not in differing and any(name in each.costs for each in found.arms)
    }
    if shared:
        yield "in all arms: " + ", ".join(f"{name} {_cost(name, value)}" for name, value in shared.items())
    for cost in differing:
        arms = found.frontier(cost)
        if len({each.costs[cost] for each in arms}) > 1:
            yield f"not beaten in both quality and {cost}: {', '.join(each.arm.id for each in arms)}"


def html_page(found: Summary) -> str:
    parts = [f"<h1>{text(found.study.name)}</h1>", f"<p>{text(found.study.describe)}</p>"]
    parts += [
        "<ul>" + "".join(f"<li>{text(each)}</li>" for each in (*_sentences(found), *found.notes)) + "</ul>"
    ]
    told = ", ".join(f"{each.arm.id} {number(each.mean)}" for each in found.arms)
    for name, draw in _pictures(found).items():
        parts.append(inline_pictures(draw, f"{found.study.metric}, {name.replace('-', ' ')}: {told}"))
    parts.append(
        page.table(header(found), ([text(cell) for cell in row] for row in rows(found)), caption="Arms")
    )
    return page.page(found.study.name, "\n".join(parts))
