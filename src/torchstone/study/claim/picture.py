"""The picture of a comparison: every seed of every arm, and the effects with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone._optional import require
from torchstone.report.inert import inert
from torchstone.report.numbers import number
from torchstone.report.palette import LIGHT, Theme
from torchstone.study.claim.publication import Publication

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def comparison_figure(publication: Publication, theme: Theme = LIGHT) -> Figure:
    """Without judgements, the values alone."""
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    height = 1.6 + 0.5 * len(publication.arms)
    figure = Figure(figsize=(10, height), facecolor=theme.background, layout="constrained")
    panels = figure.subplots(1, 2 if publication.judged else 1, squeeze=False)[0]
    _draw_values(panels[0], publication, theme)
    if publication.judged:
        _draw_effects(panels[1], publication, theme)
    return figure


def described(publication: Publication) -> str:
    """The picture in words."""
    values = {arm.name: [number(run.get("value"), 6) for run in arm.runs] for arm in publication.arms}
    told = [f"{arm}: {', '.join(each)}" for arm, each in values.items()]
    for each in publication.judged:
        low, high = map(publication.told, each.interval)
        told.append(
            f"{each.candidate}: improvement {publication.told(each.effect)}, interval {low} to {high}"
        )
    return f"{publication.claim.metric} by run. " + "; ".join(told)


def _draw_values(axes: Axes, publication: Publication, theme: Theme) -> None:
    arms = publication.arms
    _prepare(axes, [arm.name for arm in arms], theme)
    # A dollar sign in a name is a dollar sign, not mathematics.
    axes.set_title(_short(publication.claim.metric), loc="left", size=12, color=theme.ink, parse_math=False)
    for place, arm in enumerate(arms):
        values = [run.get("value") for run in arm.runs if isinstance(run.get("value"), int | float)]
        colour = theme.curves[place % len(theme.curves)]
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.7, ms=7)
        if values:
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [place - 0.25, place + 0.25], color=colour, lw=2.5)


def _draw_effects(axes: Axes, publication: Publication, theme: Theme) -> None:
    judged = publication.judged
    _prepare(axes, [each.candidate for each in judged], theme)
    unit = "% of the baseline" if publication.unit == "%" else _short(publication.claim.metric)
    axes.set_title(f"improvement, {unit}", loc="left", size=12, color=theme.ink, parse_math=False)
    axes.axvline(0, color=theme.soft, lw=1)
    if publication.claim.size.least:
        axes.axvline(publication.claim.size.least, color=theme.bad, lw=1.4, ls="--", label="claimed")
        axes.legend(fontsize=10, labelcolor=theme.ink, framealpha=0.85, facecolor=theme.background)
    for place, each in enumerate(judged):
        colour = theme.curves[(place + 1) % len(theme.curves)]
        axes.plot(each.interval, [place, place], color=colour, lw=2.5)
        axes.plot([each.effect], [place], "o", color=colour, ms=8)


def _prepare(axes: Axes, rows: list[str], theme: Theme) -> None:
    style: dict[str, Any] = {"parse_math": False}
    axes.set_facecolor(theme.background)
    axes.set_yticks(range(len(rows)), [_short(row) for row in rows], **style)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(labelsize=11, colors=theme.soft)
    axes.grid(True, axis="x", color=theme.line, lw=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.line)


def _short(name: str, most: int = 28) -> str:
    plain = inert(name).replace("\n", " ")
    return plain if len(plain) <= most else plain[: most - 1] + "…"
