"""Pictures of a search, from its trials: PNG files and one page. They only draw what `SearchResult` tells.

history            the value of each trial and the best so far; pruned ones at the bottom edge
importances        what good trials have in common, by knob (from ten completed trials on)
slices             the value against each knob
parallel           each trial as a line through its knobs, the best one on top
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._files import write_text
from torchstone._optional import require
from torchstone.report.figure_file import inline_pictures, write_png
from torchstone.report.numbers import number
from torchstone.report.page import facts, page, table, text
from torchstone.report.palette import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from torchstone.study.search import SearchResult

PAGE = "search.html"
Drawing = Callable[[Theme], "Figure"]


def write_pictures(found: SearchResult, root: Path) -> list[str]:
    """Every picture that the trials allow, as PNG, and the page; the paths."""
    drawn = drawings(found)
    files = [str(write_png(draw(LIGHT), root / f"{name}.png", dpi=120)) for name, draw in drawn.items()]
    write_text(root / PAGE, _page(found, drawn))
    return [*files, str(root / PAGE)]


def drawings(found: SearchResult) -> dict[str, Drawing]:
    """Name -> what draws it; a picture that needs more trials is left out."""
    done = found.completed
    drawn: dict[str, Drawing] = {"history": lambda theme: history(found, theme)} if done else {}
    if found.importances:
        drawn["importances"] = lambda theme: importances(found, theme)
    if len(done) > 1:
        drawn["slices"] = lambda theme: slices(found, theme)
        if len(keys_of(found)) > 1:
            drawn["parallel"] = lambda theme: parallel(found, theme)
    return drawn


def keys_of(found: SearchResult) -> list[str]:
    """Every knob that some trial varied, the most important first where that is known."""
    keys = list(dict.fromkeys(key for each in found.trials for key in each["params"]))
    return sorted(keys, key=lambda key: -found.importances.get(key, 0.0))


def history(found: SearchResult, theme: Theme = LIGHT) -> Figure:
    figure, (axes,) = _figure(theme, 1, 9.0, 3.6, "Value of each trial, and the best so far")
    done = found.completed
    axes.plot([each["number"] for each in done], [each["value"] for each in done], "o",
              color=theme.curves[0], ms=5, label="completed")  # fmt: skip
    axes.step([each["number"] for each in done], found.best_so_far, where="post", color=theme.curves[1],
              lw=2, label="best so far")  # fmt: skip
    for state, mark in (("pruned", "|"), ("fail", "x")):
        places = [each["number"] for each in found.trials if each["state"] == state]
        if places:
            axes.plot(places, [0.03] * len(places), mark, color=theme.soft, ms=9, mew=2, label=state,
                      transform=axes.get_xaxis_transform())  # fmt: skip
    _label(axes, theme, x="trial", y=found.metric)
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def importances(found: SearchResult, theme: Theme = LIGHT) -> Figure:
    names = sorted(found.importances, key=lambda key: found.importances[key])
    title = "What good trials have in common (Ped-ANOVA)"
    figure, (axes,) = _figure(theme, 1, 9.0, 1.3 + 0.4 * len(names), title)
    shares = [found.importances[name] for name in names]
    axes.barh(names, shares, color=theme.curves[0])
    for place, share in enumerate(shares):
        axes.text(share, place, f" {share:.0%}", va="center", size=9, color=theme.ink)
    axes.set_xlim(0, 1.12 * max(shares))
    _label(axes, theme, x="share", y="")
    return figure


def slices(found: SearchResult, theme: Theme = LIGHT) -> Figure:
    keys = keys_of(found)
    figure, every = _figure(theme, len(keys), max(6.0, 2.9 * len(keys)), 3.6, "Value against each knob")
    for axes, key in zip(every, keys, strict=True):
        rows = [each for each in found.completed if key in each["params"]]
        scale = _Scale([each["params"][key] for each in rows])
        axes.plot([scale.place(each["params"][key]) for each in rows], [each["value"] for each in rows], "o",
                  color=theme.curves[0], ms=5, alpha=0.8)  # fmt: skip
        if found.best is not None and key in found.best["params"]:
            axes.plot([scale.place(found.best["params"][key])], [found.best["value"]], "D",
                      color=theme.curves[1], ms=7)  # fmt: skip
        axes.set_xlim(-0.08, 1.08)
        axes.set_xticks([place for place, _ in scale.ticks], [word for _, word in scale.ticks], size=8)
        _label(axes, theme, x=key, y=found.metric if axes is every[0] else "")
    return figure


def parallel(found: SearchResult, theme: Theme = LIGHT) -> Figure:
    keys = keys_of(found)
    title = f"Each trial as a line through its knobs; darker is better, the best in colour ({found.metric})"
    figure, (axes,) = _figure(theme, 1, max(7.0, 2.2 * (len(keys) + 1)), 4.4, title)
    done = sorted(found.completed, key=lambda each: each["value"], reverse=found.mode == "min")
    done = [each for each in done if all(key in each["params"] for key in keys)]
    scales = [_Scale([each["params"][key] for each in done]) for key in keys]
    values = _Scale([each["value"] for each in done])
    for rank, each in enumerate(done):
        places = [scale.place(each["params"][key]) for scale, key in zip(scales, keys, strict=True)]
        last = rank == len(done) - 1
        axes.plot(range(len(keys) + 1), [*places, values.place(each["value"])], lw=2.6 if last else 1.2,
                  color=theme.curves[1] if last else theme.ink,
                  alpha=1.0 if last else 0.1 + 0.6 * (rank + 1) / len(done))  # fmt: skip
    for column, scale in enumerate((*scales, values)):
        axes.axvline(column, color=theme.line, lw=1, zorder=0)
        for place, word in scale.ticks:
            behind = {"facecolor": theme.background, "edgecolor": "none", "pad": 1, "alpha": 0.8}
            axes.text(column + 0.03, place, word, size=8, va="center", color=theme.ink, bbox=behind)
    axes.set_xticks(range(len(keys) + 1), [*keys, found.metric], size=9)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(keys) + 0.4)
    _label(axes, theme, x="", y="")
    axes.grid(False)
    return figure


class _Scale:
    """Values of one knob between 0 and 1: numbers by size, or by their logarithm over two decades."""

    def __init__(self, values: Sequence[Any]) -> None:
        numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
        self.words = [] if numeric else sorted({str(each) for each in values})
        self.low: float = min(values) if numeric and values else 0.0
        self.high: float = max(values) if numeric and values else 1.0
        self.log = bool(numeric and self.low > 0 and self.high / self.low > 50)

    def place(self, value: Any) -> float:
        if self.words:
            return self.words.index(str(value)) / max(len(self.words) - 1, 1)
        low, high, here = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return 0.5 if high == low else (here - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        if self.words:
            return [(self.place(each), each) for each in self.words]
        if self.low == self.high:
            return [(0.5, number(self.low))]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(self.place(each), f"{each:.3g}") for each in (self.low, middle, self.high)]


def _figure(
    theme: Theme, columns: int, width: float, height: float, title: str
) -> tuple[Figure, Sequence[Axes]]:
    figures: Any = require("matplotlib.figure", "plots")
    figure = figures.Figure(figsize=(width, height), facecolor=theme.background, layout="constrained")
    every = figure.subplots(1, columns, squeeze=False, sharey=columns > 1)[0]
    figure.suptitle(title, x=0.01, ha="left", size=11, color=theme.ink)
    return figure, every


def _label(axes: Axes, theme: Theme, *, x: str, y: str) -> None:
    axes.set_facecolor(theme.background)
    axes.set_xlabel(x, color=theme.ink, size=9)
    axes.set_ylabel(y, color=theme.ink, size=9)
    axes.tick_params(colors=theme.soft, labelcolor=theme.ink, labelsize=8)
    axes.grid(color=theme.line, lw=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.line)


def _page(found: SearchResult, drawn: dict[str, Drawing]) -> str:
    rows = [("metric", f"{found.metric}, {found.mode}"),
            ("best", "none" if found.best_value is None else number(found.best_value)),
            ("trials", ", ".join(f"{count} {state}" for state, count in found.counts.items())),
            *((key, _said(value)) for key, value in (found.best_params or {}).items())]  # fmt: skip
    parts = [f"<h1>{text(found.name)}</h1>", facts(rows)]
    parts += [inline_pictures(draw, f"{name} of the search {found.name}") for name, draw in drawn.items()]
    keys = keys_of(found)
    lines = [
        [text(each["number"]), text(each["state"]),
         text("" if each["value"] is None else number(each["value"])),
         *(text(_said(each["params"].get(key, ""))) for key in keys), text(each["error"] or "")]
        for each in found.trials
    ]  # fmt: skip
    parts.append(table(["trial", "state", found.metric, *keys, "why"], lines, caption="All trials"))
    return page(f"Search {found.name}", "\n".join(parts))


def _said(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
