"""The picture of what was measured inside a model over its steps: one panel per quantity, one line per block.

Up to five blocks have the colours of all curves here; more are told apart by depth, from dark to bright in a
map that stays ordered for colour-blind eyes and in grey (viridis, van der Walt and Smith 2015), with a scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone._optional import require
from torchstone.report.inert import inert
from torchstone.report.palette import LIGHT, Theme
from torchstone.report.probes_info import Line, ProbePanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
READABLE = {"light": (0.0, 0.85), "dark": (0.25, 1.0)}
"""The part of the map that stands out against its surface."""


def probes_figure(name: str, panels: list[ProbePanel], theme: Theme = LIGHT) -> Figure:
    """`panels` is not empty."""
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    rows = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = Figure(
        figsize=(5.4 * columns, 0.6 + 3.6 * rows), facecolor=theme.background, layout="constrained"
    )
    figure.suptitle(inert(name), size=15, weight="bold", color=theme.ink, x=0.01, ha="left", parse_math=False)
    grid = figure.add_gridspec(rows, columns)
    for place, panel in enumerate(panels):
        _draw(figure, figure.add_subplot(grid[place // COLUMNS, place % COLUMNS]), panel, theme)
    return figure


def _draw(figure: Figure, axes: Axes, panel: ProbePanel, theme: Theme) -> None:
    _prepare(axes, panel, theme)
    colour, is_scale = _colours(panel.lines, theme)
    for place, line in enumerate(panel.lines):
        dash: Any = "-" if is_scale else DASHES[place]
        dots = "o" if len(line.steps) <= 25 else None
        label = None if line.block is None else f"block {line.block}"
        axes.plot(
            line.steps, line.mean, color=colour[place], ls=dash, lw=1.8, marker=dots, ms=3.5, label=label
        )
        if panel.num_heads > 1:
            axes.fill_between(line.steps, line.low, line.high, color=colour[place], alpha=0.12, lw=0)
    if is_scale:
        _add_scale(figure, axes, panel.lines, theme)
    elif any(line.block is not None for line in panel.lines):
        legend = axes.legend(fontsize=9, labelcolor=theme.ink, framealpha=0.85, edgecolor=theme.line)
        legend.get_frame().set_facecolor(theme.background)


def _prepare(axes: Axes, panel: ProbePanel, theme: Theme) -> None:
    heads = f"mean and range of {panel.num_heads} heads" if panel.num_heads > 1 else ""
    axes.set_facecolor(theme.background)
    axes.set_title(inert(panel.title), loc="left", size=12, weight="bold", color=theme.ink, parse_math=False)
    axes.set_ylabel(", ".join(filter(None, (panel.unit, heads))), size=10, color=theme.soft)
    axes.set_xlabel("step", size=10, color=theme.soft)
    axes.tick_params(labelsize=10, colors=theme.soft)
    axes.grid(True, color=theme.line, lw=0.8)
    axes.ticklabel_format(useOffset=False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.line)


def _colours(lines: list[Line], theme: Theme) -> tuple[list[Any], bool]:
    """One for each line, and whether they are places on a scale."""
    if len(lines) <= len(theme.curves):
        return list(theme.curves[: len(lines)]), False
    map_of_depth = _map(theme)
    return [map_of_depth(place / (len(lines) - 1)) for place in range(len(lines))], True


def _map(theme: Theme) -> Any:
    import matplotlib
    from matplotlib.colors import ListedColormap

    low, high = READABLE[theme.name]
    viridis = matplotlib.colormaps["viridis"]
    return ListedColormap([viridis(low + (high - low) * place / 255) for place in range(256)])


def _add_scale(figure: Figure, axes: Axes, lines: list[Line], theme: Theme) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    blocks = [line.block or 0 for line in lines]
    bar = figure.colorbar(ScalarMappable(Normalize(min(blocks), max(blocks)), _map(theme)), ax=axes, pad=0.02)
    bar.set_ticks([min(blocks), max(blocks)])
    bar.set_label("block", size=10, color=theme.soft)
    bar.ax.tick_params(labelsize=10, colors=theme.soft)
    bar.outline.set_edgecolor(theme.line)
