"""What was measured inside a model at its validations, as panels of curves: gates, attention.

    probe_panels(run_info(store, run_id))      # one panel per gate, one line per block

Rows are named `KIND/PATH/NAME` or `KIND/PATH/NAME/HEAD`; a number in PATH is the block. Heads of a block
become one line, their mean, with the smallest and the largest beside it.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from torchstone.report.run_info import RunInfo, Series

KINDS = ("gates", "attention")
UNITS = {"entropy": "nats", "reciprocity": "correlation"}
"""Of what is measured of the attention; gates are plain numbers."""
_BLOCK = re.compile(r"(?:^|(?<=\.))(?:[A-Za-z_]+\.)?(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Line:
    """One block: mean, smallest and largest over its heads, at each step."""

    block: int | None
    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class ProbePanel:
    """One quantity in all blocks."""

    kind: str
    title: str
    unit: str
    num_heads: int
    """Most heads behind one line; 1: the line is the number itself."""
    lines: list[Line]


def is_probe(key: str) -> bool:
    """Whether a metric is one of these, of which a run may have hundreds."""
    kind, _, rest = key.partition("/")
    return kind in KINDS and "/" in rest


def probe_panels(info: RunInfo) -> list[ProbePanel]:
    """Gates first, then attention, each by name."""
    found: dict[tuple[str, str, str], dict[int | None, list[Series]]] = {}
    for key, series in info.series.items():
        if not is_probe(key):
            continue
        kind, path, name, *_ = key.split("/")
        block, part = _placed(path)
        found.setdefault((kind, part, name), {}).setdefault(block, []).append(series)
    ordered = sorted(found, key=lambda names: (KINDS.index(names[0]), *names))
    return [_panel(*names, found[names]) for names in ordered]


def probes_dict(info: RunInfo, panels: list[ProbePanel], picture: str | None) -> dict[str, Any]:
    """The `torchstone.probes/1` object."""
    return {
        "schema": "torchstone.probes/1",
        "run_id": info.run.run_id,
        "picture": picture,
        "panels": [asdict(panel) for panel in panels],
    }


def _placed(path: str) -> tuple[int | None, str]:
    """The number of the block, and the path within it."""
    match = _BLOCK.search(path)
    if match is None:
        return None, path
    rest = (path[: match.start()] + path[match.end() :]).strip(".")
    return int(match[1]), rest or path[: match.end()].strip(".0123456789")


def _panel(kind: str, part: str, name: str, blocks: dict[int | None, list[Series]]) -> ProbePanel:
    ordered = sorted(blocks.items(), key=lambda each: -1 if each[0] is None else each[0])
    unit = UNITS.get(name, "") if kind == "attention" else ""
    title = name if kind == "attention" or not part else f"{part}: {name}"
    most = max(len(series) for series in blocks.values())
    return ProbePanel(kind, title, unit, most, [_line(block, series) for block, series in ordered])


def _line(block: int | None, heads: list[Series]) -> Line:
    at: dict[int, list[float]] = {}
    for series in heads:
        for step, value in zip(series.steps, series.values, strict=True):
            if math.isfinite(value):
                at.setdefault(step, []).append(value)
    values = [at[step] for step in sorted(at)]
    return Line(
        block,
        sorted(at),
        [sum(each) / len(each) for each in values],
        [min(each) for each in values],
        [max(each) for each in values],
    )
