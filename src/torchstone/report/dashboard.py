"""The dashboard of one run: a summary card and six panels, as a picture and as a page that needs no network.

    write_dashboard(store, run_id, folder)      # folder/dashboard.png and folder/dashboard.html
    write_dashboard_file(store, run_id, Path("run.pdf"))        # .png, .svg, .pdf or .html

Where the model was watched after its training, four panels on the drift of its data follow. It draws what
`dashboard_info.panels` and `drift_info` computed. The picture needs the extra [plots]; without it the page
still holds every number, and says how to get the picture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import MissingExtra
from torchstone._files import write_text
from torchstone._optional import require
from torchstone.report import page
from torchstone.report.dashboard_info import Panel, panels
from torchstone.report.drift_info import DriftInfo, drift_info
from torchstone.report.drift_panels import draw_drift
from torchstone.report.figure_file import inline_pictures, write_picture
from torchstone.report.inert import inert
from torchstone.report.numbers import number
from torchstone.report.page import text
from torchstone.report.palette import LIGHT, Theme
from torchstone.report.probes_info import is_probe
from torchstone.report.run_info import RunInfo, run_info
from torchstone.report.terminal import sparkline
from torchstone.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (16.0, 10.0)
_WITH_DRIFT = (16.0, 17.5)
_DRIFT_SHARE = 0.43
"""Of the height, for the drift panels."""
_DRIFT_PLACES = (
    (0.09, 0.25, 0.39, 0.155),
    (0.57, 0.25, 0.41, 0.155),
    (0.125, 0.045, 0.355, 0.15),
    (0.57, 0.03, 0.42, 0.165),
)
"""Left, bottom, width and height."""


def write_dashboard(store: Store, run_id: str, folder: Path) -> list[Path]:
    """Write the page, and the picture where matplotlib is installed; the paths of what was written."""
    info, drift = run_info(store, run_id), drift_info(store, run_id)
    draw = functools.cache(functools.partial(dashboard_figure, info, drift=drift))
    html = Path(folder) / "dashboard.html"
    write_text(html, dashboard_html(info, drift, draw))
    try:
        return [html, write_picture(draw(LIGHT), Path(folder) / "dashboard.png")]
    except MissingExtra:
        return [html]


def write_dashboard_file(store: Store, run_id: str, path: Path) -> Path:
    """As a picture or a page, by the ending of the name."""
    info, drift = run_info(store, run_id), drift_info(store, run_id)
    if Path(path).suffix.lower() in (".html", ".htm"):
        write_text(Path(path), dashboard_html(info, drift))
        return Path(path)
    return write_picture(dashboard_figure(info, drift=drift), Path(path))


def dashboard_html(
    info: RunInfo, drift: DriftInfo | None = None, draw: Callable[[Theme], Figure] | None = None
) -> str:
    """One page: facts, the picture for light and for dark surroundings, every metric as a row."""
    body = [
        f"<h1>{text(info.run.name)}</h1>",
        f'<p class="soft"><code>{text(info.run.run_id)}</code> in <code>{text(info.run.run_dir)}</code></p>',
        page.facts(info.summary()),
        inline_pictures(
            draw or functools.partial(dashboard_figure, info, drift=drift), _described(info, drift)
        ),
        *([] if drift is None else [_drift_table(drift)]),
        page.table(("metric", "course", "first", "last", "points"), _metric_rows(info), caption="Metrics"),
    ]
    return page.page(f"{info.run.name}: {info.status}", "\n".join(body))


def dashboard_figure(info: RunInfo, theme: Theme = LIGHT, drift: DriftInfo | None = None) -> Figure:
    """The picture, 16 inches wide; its letters are still readable at half size."""
    require("matplotlib", "plots")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    upper = (0, 0, 1, 1) if drift is None else (0, _DRIFT_SHARE, 1, 1 - _DRIFT_SHARE)
    room = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.02, hspace=0.04, rect=upper)
    size = _INCHES if drift is None else _WITH_DRIFT
    figure = Figure(figsize=size, facecolor=theme.background, layout=room)
    grid = figure.add_gridspec(3, 3, height_ratios=(0.5, 1, 1))
    _draw_card(figure.add_subplot(grid[0, :]), info, theme)
    if drift is not None:
        below = [figure.add_axes(place) for place in _DRIFT_PLACES]
        for each in below:  # to lay them out would cost more than to draw them
            each.set_in_layout(False)
        draw_drift(below, drift, theme)
    for place, panel in enumerate(panels(info)):
        axes = figure.add_subplot(grid[1 + place // 3, place % 3])
        _draw_panel(axes, panel, theme)
        if panel.curves:
            axes.set_xlim(-0.02 * info.steps, 1.03 * info.steps + 1)
    return figure


def _draw_card(axes: Axes, info: RunInfo, theme: Theme) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    # A dollar sign in a name is a dollar sign, not mathematics.
    style: dict[str, Any] = {"parse_math": False, "va": "baseline"}
    axes.text(0, 0.86, _short(info.run.name, 44), size=20, weight="bold", color=theme.ink, **style)
    axes.text(1, 0.86, _short(info.run.run_id, 46), size=12, color=theme.soft, ha="right", **style)
    facts = info.summary()
    columns = (len(facts) + 1) // 2
    for place, (name, value) in enumerate(facts):
        left, top = (place % columns) / columns, 0.62 - 0.4 * (place // columns)
        axes.text(left, top, _short(name, 24), size=12, color=theme.soft, **style)
        axes.text(left, top - 0.18, _short(value, 24), size=15, color=theme.ink, **style)


def _draw_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    _prepare(axes, panel, theme)
    if not panel.curves:
        style: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False, "color": theme.soft}
        axes.text(0.5, 0.55, "not available", transform=axes.transAxes, size=16, **style)
        axes.text(0.5, 0.42, panel.absent, transform=axes.transAxes, size=12, **style)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("")
        axes.set_ylabel("")
        return
    for curve in panel.curves:
        colour = theme.curves[curve.colour]
        dots = "o" if len(curve.steps) <= 25 and not curve.faint else None
        width, alpha = (1.0, 0.35) if curve.faint else (2.0, 1.0)
        label = None if curve.faint else curve.label
        axes.plot(
            curve.steps, curve.values, color=colour, lw=width, alpha=alpha, label=label, marker=dots, ms=4
        )
        if len(curve.steps) == len(panel.curves) == 1:
            words: dict[str, Any] = {"xytext": (-8, 6), "textcoords": "offset points", "ha": "right"}
            point = (curve.steps[0], curve.values[0])
            axes.annotate(number(curve.values[0]), point, size=12, color=theme.ink, **words)
    _scale(axes, panel)
    if panel.limits:
        axes.set_ylim(*panel.limits)
    _mark(axes, panel, theme)
    _name_curves(axes, panel, theme)


def _prepare(axes: Axes, panel: Panel, theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    lost = f"   ({panel.omitted} not drawn)" if panel.omitted and panel.curves else ""
    axes.set_title(panel.title + lost, loc="left", size=15, weight="bold", color=theme.ink)
    scale = ", log scale" if panel.log else ""
    axes.set_ylabel(f"{panel.unit}{scale}", size=12, color=theme.soft)
    axes.set_xlabel("step", size=12, color=theme.soft)
    axes.tick_params(labelsize=12, colors=theme.soft, which="both")
    axes.grid(True, color=theme.line, lw=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.line)


def _scale(axes: Axes, panel: Panel) -> None:
    """Plain figures at the ticks; a common factor above the axis would be overlooked."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _mark(axes: Axes, panel: Panel, theme: Theme) -> None:
    if panel.span:
        start, stop, name = panel.span
        axes.axvspan(start, stop, color=theme.curves[1], alpha=0.15, lw=0, label=name)
    if panel.level:
        height, name = panel.level
        axes.axhline(height, color=theme.soft, lw=1.4, ls="--", label=name)
    if panel.warn_above is not None:
        axes.axhspan(
            panel.warn_above,
            axes.get_ylim()[1],
            color=theme.bad,
            alpha=0.12,
            lw=0,
            label="above 5: unstable?",
        )
    if panel.star:
        step, value, words = panel.star
        axes.plot(
            [step],
            [value],
            "*",
            ms=17,
            color=theme.warning,
            mec=theme.background,
            mew=1.0,
            label=words,
            zorder=5,
        )


def _name_curves(axes: Axes, panel: Panel, theme: Theme) -> None:
    marks = (panel.star, panel.level, panel.span, panel.warn_above)
    if len([curve for curve in panel.curves if not curve.faint]) > 1 or any(
        mark is not None for mark in marks
    ):
        legend = axes.legend(fontsize=11, labelcolor=theme.ink, framealpha=0.85, edgecolor=theme.line)
        legend.get_frame().set_facecolor(theme.background)


def _drift_table(drift: DriftInfo) -> str:
    rows = [
        tuple(map(text, (each.feature, each.reference, each.new, each.distance, each.p, each.verdict)))
        for each in drift.table
    ]
    heads = ("feature", "reference", "now", "distance", "p", "verdict")
    return page.table(heads, rows, caption=f"Drift: {drift.sentence}")


def _described(info: RunInfo, drift: DriftInfo | None) -> str:
    """The picture in words, for who cannot see it."""
    drawn = [panel.title.lower() for panel in panels(info) if panel.curves]
    watched = "" if drift is None else f"; drift of its data: {drift.sentence}"
    return f"curves of {', '.join(drawn) or 'nothing'}; the table below has their values{watched}"


def _metric_rows(info: RunInfo) -> Sequence[tuple[str, ...]]:
    return [
        (
            f"<code>{text(key)}</code>",
            text(sparkline(series.values, 30)),
            text(number(series.values[0])),
            text(number(series.values[-1])),
            text(number(len(series.steps))),
        )
        for key, series in info.series.items()
        if not is_probe(key)
    ]


def _short(name: str, most: int) -> str:
    plain = inert(name).replace("\n", " ")
    return plain if len(plain) <= most else plain[: most - 1] + "…"
