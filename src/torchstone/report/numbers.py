"""Numbers as people read them: few digits, with units. One form in tables, pages and pictures."""

from __future__ import annotations

import math


def number(value: object, digits: int = 4) -> str:
    """`0.01234`, `1.5e-07`, `12,345`, `nan`; what is no number is given as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if isinstance(value, int) or (size >= 1_000 and size < 1e9):
        return f"{value:,.0f}"
    if size and (size < 1e-3 or size >= 1e9):
        return f"{value:.{digits - 2}e}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """`0.8 s`, `45 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = whole // 60
    return f"{minutes // 60} h {minutes % 60:02d} min"
