"""Pictures of a study: the ladder of an ablation, the heat map of a matrix, quality against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._optional import require
from torchstone.report.inert import inert
from torchstone.report.numbers import number
from torchstone.report.palette import LIGHT, Theme
from torchstone.study.summary import ArmSummary, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def ladder(found: Summary, theme: Theme = LIGHT) -> Figure:
    """Every seed of every arm, the mean, and the parent's mean as a tick."""
    figure, axes = _figure(theme, height=1.4 + 0.42 * len(found.arms))
    colour, other = theme.curves[0], theme.curves[1]
    for place, each in enumerate(found.arms):
        axes.plot(list(each.values.values()), [place] * len(each.values), "o", color=colour, alpha=0.5, ms=6)
        if each.mean is not None:
            axes.plot([each.mean] * 2, [place - 0.28, place + 0.28], color=colour, lw=2.5)
        parent = next((arm for arm in found.arms if arm.arm.id == each.arm.parent), None)
        if parent is not None and parent.mean is not None:
            axes.plot([parent.mean], [place], "|", color=other, ms=14, mew=2)
    axes.set_yticks(range(len(found.arms)), [_name(each) for each in found.arms], parse_math=False)
    axes.invert_yaxis()
    axes.set_title(f"{found.study.metric}: seeds, mean, and the parent's mean (|)", loc="left", size=12,
                   color=theme.ink, parse_math=False)  # fmt: skip
    axes.grid(axis="x", color=theme.line)
    return figure


def heat_map(found: Summary, rows: str, columns: str, theme: Theme = LIGHT) -> Figure:
    """The best mean for each pair of values of two axes; empty where nothing was run.

    A value that goes with none of the other axis (no sparsity where nothing is pruned) has no row or column.
    """
    names = {
        axis: [
            value.name
            for value in each.values
            if any(arm.arm.values.get(axis) == value.name and other in arm.arm.values for arm in found.arms)
        ]
        for axis, other in ((rows, columns), (columns, rows))
        for each in found.study.axes
        if each.name == axis
    }
    figure, axes = _figure(theme, height=1.2 + 0.55 * len(names[rows]))
    table = [[_best(found, {rows: row, columns: column}) for column in names[columns]] for row in names[rows]]
    shown = [[float("nan") if value is None else value for value in row] for row in table]
    image = axes.imshow(shown, cmap="viridis_r" if found.lower_is_better else "viridis", aspect="auto")
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            if value is not None:
                axes.text(x, y, number(value), ha="center", va="center", size=11, color="white",
                          bbox={"facecolor": "#00000088", "edgecolor": "none", "pad": 2})  # fmt: skip
    axes.set_xticks(range(len(names[columns])), [inert(each) for each in names[columns]], parse_math=False)
    axes.set_yticks(range(len(names[rows])), [inert(each) for each in names[rows]], parse_math=False)
    axes.set_xlabel(columns, color=theme.ink, parse_math=False)
    axes.set_ylabel(rows, color=theme.ink, parse_math=False)
    others = [each.name for each in found.study.axes if each.name not in (rows, columns)]
    best = f", the best over {' and '.join(others)}" if others else ""
    title = inert(found.study.metric + best)
    axes.set_title(title, loc="left", size=12, color=theme.ink, parse_math=False)
    bar = figure.colorbar(image, ax=axes)
    bar.ax.tick_params(colors=theme.soft)
    return figure


def quality_against(found: Summary, cost: str, theme: Theme = LIGHT) -> Figure:
    """Arms by cost and quality; those that no other beats in both are joined."""
    figure, axes = _figure(theme, height=4.2)
    known = [each for each in found.arms if each.mean is not None and cost in each.costs]
    best = found.frontier(cost)
    for each in known:
        on = each in best
        axes.plot(
            [each.costs[cost]], [each.mean or 0.0], "o", color=theme.curves[0 if on else 1], ms=8 if on else 6
        )
        axes.annotate(inert(each.arm.id), (each.costs[cost], each.mean), textcoords="offset points",
                      xytext=(6, 4), size=9, color=theme.soft, parse_math=False)  # fmt: skip
    axes.plot(
        [each.costs[cost] for each in best], [each.mean or 0.0 for each in best], color=theme.curves[0], lw=1
    )
    axes.set_xlabel(cost.replace("_", " "), color=theme.ink)
    axes.set_ylabel(found.study.metric, color=theme.ink, parse_math=False)
    if not found.lower_is_better:
        axes.invert_yaxis()
    axes.grid(color=theme.line)
    return figure


def _best(found: Summary, values: dict[str, str]) -> float | None:
    among = [
        each.mean
        for each in found.arms
        if each.mean is not None and all(each.arm.values.get(axis) == name for axis, name in values.items())
    ]
    return None if not among else min(among) if found.lower_is_better else max(among)


def _name(each: ArmSummary) -> str:
    name = "" if each.arm.values or each.arm.name == each.arm.id else each.arm.name  # a matrix's id says all
    return inert(f"{each.arm.id}  {name}".strip())[:48]


def _figure(theme: Theme, height: float) -> tuple[Figure, Axes]:
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), facecolor=theme.background, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.soft)
    for spine in axes.spines.values():
        spine.set_color(theme.line)
    return figure, axes
