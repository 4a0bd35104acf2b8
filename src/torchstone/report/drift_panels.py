"""The four drift panels of a dashboard, drawn: histogram, course over windows, features by windows, table.

Colours are those of `palette.py`; the map is cividis, which is ordered for colour-blind eyes and in grey
(Nunez, Anderton and Renslow 2018). An alarm is a triangle and a word, never a colour alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchstone.report.drift_info import Course, DriftInfo, Histogram, Matrix
from torchstone.report.inert import inert
from torchstone.report.palette import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = ("Data: reference and now", "Drift over windows", "Features by window", "Last window")
LONGEST_NAME = 18
MOST_TICKS = 8
DARK_BELOW = 0.55
"""Of the map's range: below it, letters in a cell are light."""


def draw_drift(axes: Sequence[Axes], info: DriftInfo, theme: Theme) -> None:
    """On four axes, in the order of `TITLES`."""
    for each, title in zip(axes, TITLES, strict=True):
        each.set_facecolor(theme.background)
        each.set_title(title, loc="left", size=15, weight="bold", color=theme.ink)
        each.tick_params(labelsize=12, colors=theme.soft, which="both")
        for side, spine in each.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.line)
    if info.histogram is None:
        _absent(axes[0], "no feature has a histogram", theme)
    else:
        _draw_histogram(axes[0], info.histogram, theme)
    _draw_course(axes[1], info.course, theme)
    _draw_matrix(axes[2], info.matrix, theme)
    _draw_table(axes[3], info, theme)


def _absent(axes: Axes, why: str, theme: Theme) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    style: dict[str, Any] = {"ha": "center", "transform": axes.transAxes, "color": theme.soft}
    axes.text(0.5, 0.55, "not available", size=16, **style)
    axes.text(0.5, 0.42, why, size=12, **style)


def _draw_histogram(axes: Axes, histogram: Histogram, theme: Theme) -> None:
    first, second = theme.curves[0], theme.curves[1]
    share = [[100 * each for each in values] for values in (histogram.reference, histogram.new)]
    if histogram.edges:
        # Filled against outlined: the two stay apart where colours do not.
        axes.stairs(share[0], histogram.edges, fill=True, color=first, alpha=0.45, label="reference")
        axes.stairs(share[1], histogram.edges, color=second, lw=2.2, label="now")
        axes.set_xlabel(_short(histogram.feature), size=12, color=theme.soft, parse_math=False)
    else:
        places = range(len(histogram.classes))
        axes.bar([each - 0.2 for each in places], share[0], 0.38, color=first, alpha=0.6, label="reference")
        axes.bar([each + 0.2 for each in places], share[1], 0.38, color=second, hatch="//",
                 edgecolor=theme.background, label="now")  # fmt: skip
        names = [_short(each, 8) for each in histogram.classes]
        crowded = sum(map(len, names)) > 36
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
        axes.set_xticks(list(places), names, parse_math=False, **turned)
        axes.set_xlabel(_short(histogram.feature), size=12, color=theme.soft, parse_math=False)
    axes.set_ylabel("share of rows, %", size=12, color=theme.soft)
    axes.set_ylim(0, 1.25 * max(max(share[0]), max(share[1]), 1e-9))
    _legend(axes, theme)


def _draw_course(axes: Axes, course: Course, theme: Theme) -> None:
    from torchstone.drift.verdict import CRITICAL, WARNING

    top = max(0.3, 1.35 * max(course.distance))  # room above for the legend
    for low, high, colour, name in (
        (0.0, WARNING, theme.good, "under 0.1"),
        (WARNING, CRITICAL, theme.warning, "0.1 to 0.2"),
        (CRITICAL, top, theme.bad, "above 0.2"),
    ):
        axes.axhspan(low, high, color=colour, alpha=0.12, lw=0)
        axes.text(0.99, (low + min(high, top)) / 2, name, size=11, color=colour, ha="right", va="center",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.plot(
        course.windows, course.distance, color=theme.curves[0], lw=2.0, marker="o", ms=5, label="distance"
    )
    alarms = [pair for pair, alarm in zip(zip(course.windows, course.distance, strict=True), course.alarm,
                                          strict=True) if alarm]  # fmt: skip
    if alarms:
        axes.plot([each for each, _ in alarms], [each for _, each in alarms], "^", ms=12, color=theme.bad,
                  mec=theme.background, label="alarm of the verdict", zorder=5)  # fmt: skip
    axes.set_ylim(0, top)
    # Room at the right, where the names of the zones stand.
    span = max(1, course.windows[-1] - course.windows[0])
    axes.set_xlim(course.windows[0] - 0.04 * span - 0.2, course.windows[-1] + 0.22 * span + 0.3)
    apart = -(-len(course.windows) // MOST_TICKS)
    axes.set_xticks(course.windows[::apart])
    axes.set_xlabel("window", size=12, color=theme.soft)
    axes.set_ylabel("largest distance", size=12, color=theme.soft)
    _legend(axes, theme, "upper left", columns=2)


def _draw_matrix(axes: Axes, matrix: Matrix, theme: Theme) -> None:
    import matplotlib
    import numpy as np

    from torchstone.drift.verdict import CRITICAL

    values = np.array([[np.nan if each is None else each for each in row] for row in matrix.distance])
    most = max(2 * CRITICAL, float(np.nanmax(values)) if np.isfinite(values).any() else 0.0)
    shown = matplotlib.colormaps["cividis"].with_extremes(bad=theme.card)
    axes.imshow(values, cmap=shown, vmin=0.0, vmax=most, aspect="auto")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if np.isfinite(value):
            told = ("▲" if matrix.alarm[row][column] else "") + f"{value:.2f}".removeprefix("0")
            colour = "#ffffff" if value / most < DARK_BELOW else "#101418"
            axes.text(column, row, told, size=11, color=colour, ha="center", va="center", in_layout=False)
    axes.set_xticks(range(len(matrix.windows)), [str(each) for each in matrix.windows])
    axes.set_yticks(range(len(matrix.features)), [_short(each) for each in matrix.features], parse_math=False)
    axes.set_xlabel("window (▲ alarm; brighter: larger distance)", size=12, color=theme.soft)


COLUMNS = {"feature": 0.0, "reference": 0.23, "now": 0.36, "distance": 0.49, "p": 0.61, "verdict": 0.73}
"""Heads of the table, and where their columns begin; what stands in them fits at 12 points."""


def _draw_table(axes: Axes, info: DriftInfo, theme: Theme) -> None:
    axes.set_axis_off()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    # Outside of the layout: a long word must not make every other panel narrower.
    style: dict[str, Any] = {"va": "center", "parse_math": False, "in_layout": False}
    top, pitch = 0.95, 0.095
    for head, left in COLUMNS.items():
        axes.text(left, top, head, size=12, color=theme.soft, **style)
    for line, row in enumerate(info.table):
        height, verdict = top - pitch * (line + 1), f"▲ {row.verdict}" if row.alarm else row.verdict
        cells = (_short(row.feature), row.reference or "–", row.new or "–", row.distance, row.p, verdict)
        for left, cell in zip(COLUMNS.values(), cells, strict=True):
            axes.text(left, height, cell, size=12, color=theme.bad if row.alarm else theme.ink, **style)
    more = f"; {info.omitted} more features differ less" if info.omitted else ""
    told = "\n".join(textwrap.wrap(inert(info.sentence + more), 76)[:2])
    axes.text(0, 0.05, told, size=11, color=theme.soft, **style)


def _legend(axes: Axes, theme: Theme, place: str = "upper right", columns: int = 1) -> None:
    legend = axes.legend(
        loc=place, ncols=columns, fontsize=11, labelcolor=theme.ink, framealpha=0.85, edgecolor=theme.line
    )
    legend.get_frame().set_facecolor(theme.background)


def _short(name: str, most: int = LONGEST_NAME) -> str:
    plain = inert(name).replace("\n", " ")
    return plain if len(plain) <= most else plain[: most - 1] + "…"
