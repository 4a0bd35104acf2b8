"""Curves in a line of text, for tables and terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 20) -> str:
    """The course of `values` in at most `width` characters; a gap where a value is not finite."""
    if not values:
        return ""
    points = _shrink(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return " " * len(points)
    # Halves, because the distance of two large values can be too large for a float.
    low, span = min(finite) / 2, max(finite) / 2 - min(finite) / 2
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((point / 2 - low) / span * top) if span else top // 2] if math.isfinite(point) else " "
        for point in points
    )


def _shrink(values: Sequence[float], width: int) -> list[float]:
    """Means of equal stretches: a single spike must not stand for its neighbours."""
    if len(values) <= width:
        return list(values)
    edges = [round(place * len(values) / width) for place in range(width + 1)]
    stretches = [values[start:stop] for start, stop in pairwise(edges)]
    return [_mean([value for value in stretch if math.isfinite(value)]) for stretch in stretches]


def _mean(values: Sequence[float]) -> float:
    # A running mean, not a sum: the sum of large values could overflow.
    mean = 0.0
    for count, value in enumerate(values, start=1):
        mean += value / count - mean / count
    return mean if values else math.nan
