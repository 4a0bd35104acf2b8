"""Runs for people at a terminal: the list, one run, several side by side. It only draws, with rich."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from torchstone.report.compare import Comparison
from torchstone.report.inert import inert
from torchstone.report.numbers import duration, number
from torchstone.report.probes_info import ProbePanel, is_probe
from torchstone.report.run_info import RunInfo, live_status
from torchstone.report.terminal import sparkline
from torchstone.tracking.rows import MetricRow, RunRow, iso

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {
    "completed": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "killed": "yellow",
    "failed": "red",
}


def runs_table(runs: Sequence[RunRow], last: Mapping[str, Mapping[str, MetricRow]]) -> RenderableType:
    """One line per run, newest first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("kind")
    table.add_column("status")
    table.add_column("step", justify="right")
    table.add_column("train/loss", justify="right")
    table.add_column("val/loss", justify="right")
    table.add_column("age", justify="right", no_wrap=True)
    for run in runs:
        values = last[run.run_id]
        table.add_row(
            _text(run.run_id),
            _text(run.kind),
            _status(live_status(run)),
            number(max((row.step for row in values.values()), default=None)),
            *(number(values[key].value) if key in values else "" for key in ("train/loss", "val/loss")),
            duration(max(0.0, time.time() - run.started)),
        )
    return table


def run_card(info: RunInfo) -> RenderableType:
    """The facts of one run and a sparkline per metric."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("run", _text(info.run.run_id))
    facts.add_row("folder", _text(info.run.run_dir))
    facts.add_row("started", iso(info.run.started))
    if info.marks.tags:
        facts.add_row("tags", _text(", ".join(sorted(info.marks.tags))))
    if info.marks.invalid is not None:
        facts.add_row("invalid", Text(inert(info.marks.invalid), style="red"))
    for name, value in info.summary():
        facts.add_row(name, _status(value) if name == "status" else _text(value))
    curves = Table(box=None, pad_edge=False)
    for column in ("metric", "course", "last", "points"):
        curves.add_column(column, justify="right" if column in ("last", "points") else "left")
    for key, series in info.series.items():
        if not is_probe(key):
            curves.add_row(
                _text(key), sparkline(series.values), number(series.values[-1]), number(len(series.steps))
            )
    inside = sum(map(is_probe, info.series))
    note = Text(f"and {inside} measures of its inside: torchstone runs probes RUN", style="dim")
    return Group(facts, Text(), curves, *([note] if inside else [])) if info.series else facts


def probes_table(panels: Sequence[ProbePanel]) -> RenderableType:
    """One line per quantity and block: its course, and the mean over the heads at both ends."""
    table = Table(box=None, pad_edge=False)
    for column in ("measure", "block", "course", "first", "last", "smallest head", "largest head"):
        is_text = column in ("measure", "course")
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for panel in panels:
        name = f"{panel.title} ({panel.unit})" if panel.unit else panel.title
        for line in panel.lines:
            ends = (line.low[-1], line.high[-1]) if panel.num_heads > 1 and line.mean else (None, None)
            table.add_row(
                _text(name),
                number(line.block),
                sparkline(line.mean),
                *(number(line.mean[place] if line.mean else None) for place in (0, -1)),
                *map(number, ends),
            )
            name = ""
    return table


def comparison_table(comparison: Comparison) -> RenderableType:
    """Differences of configuration, then metrics; the best of each metric is marked with a star."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for run in comparison.runs:
        table.add_column(_text(run.run_id), overflow="fold")
    table.add_row("status", *(_status(status) for status in comparison.statuses))
    for key, values in comparison.differences.items():
        table.add_row(_text(key), *(_text("-" if value is None else number(value)) for value in values))
    for place, (key, metric) in enumerate(comparison.metrics.items()):
        best = comparison.best(key)
        cells = [
            "-" if value is None else number(value) + (" *" if column == best else "")
            for column, value in enumerate(metric)
        ]
        if place == 0:
            table.add_section()
        table.add_row(_text(key), *cells)
    note = "config: only what differs; metrics: last value, * marks the best"
    return Group(table, Text(note, style="dim"))


def _text(value: object) -> Text:
    return Text(inert(value))


def _status(status: str) -> Text:
    return Text(status, style=STYLES.get(status, "default"))
