"""The six panels of a run's dashboard as plain values: which curves, on which scale, with which marks.

`dashboard.py` draws them. A panel whose metric was never logged says so instead of being left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from torchstone.report.run_info import RunInfo, Series, perplexity

# Beyond so many points a curve is drawn by the extremes of equal stretches: same look, smaller file.
MOST_POINTS = 1500
# Beyond so many points a noisy curve also gets a running mean.
_SMOOTH_FROM = 100
# Larger values break the arithmetic of axes, and smaller ones that of logarithmic axes.
_LARGEST, _SMALLEST = 1e30, 1e-30
_LOG_RATIO = 10.0


@dataclass(frozen=True)
class Curve:
    """Points to draw; `faint` is noise behind a `bold` mean."""

    label: str
    steps: list[int]
    values: list[float]
    colour: int
    """Place in the palette."""
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel; without curves, `absent` says what is missing."""

    title: str
    unit: str
    curves: list[Curve] = field(default_factory=list)
    log: bool = False
    star: tuple[int, float, str] | None = None
    """Step, value and words of the best point."""
    level: tuple[float, str] | None = None
    """A horizontal line and its name."""
    span: tuple[int, int, str] | None = None
    """A stretch of steps and its name."""
    warn_above: float | None = None
    limits: tuple[float, float] | None = None
    absent: str = ""
    omitted: int = 0
    """Values that cannot be drawn: not finite, or beyond every scale."""


def panels(info: RunInfo) -> list[Panel]:
    """Loss, perplexity, accuracy, learning rate, gradient norm, throughput: always six, in this order."""
    return [_loss(info), _perplexity(info), _accuracy(info), _rate(info), _gradients(info), _speed(info)]


def _loss(info: RunInfo) -> Panel:
    curves, omitted = _curves(info, [("train", "train/loss", 0, None), ("val", "val/loss", 1, None)])
    star = None
    if info.best and abs(info.best.value) <= _LARGEST:
        star = (info.best.step, info.best.value, f"best {info.best.value:.4g}")
    return _panel("Loss", "loss", curves, omitted, star=star, absent="train/loss")


def _perplexity(info: RunInfo) -> Panel:
    key, label, change = next(
        (choice for choice in _PERPLEXITY if choice[0] in info.series), ("val/loss", "val", None)
    )
    curves, omitted = _curves(info, [(label, key, 1 if label.startswith("val") else 0, change)])
    values = [value for curve in curves for value in curve.values]
    level = (10.0, "10") if values and min(values) <= 10 <= max(values) else None
    return _panel("Perplexity", "exp(loss)", curves, omitted, level=level, absent="val/loss")


_PERPLEXITY: tuple[tuple[str, str, Callable[[float], float] | None], ...] = (
    ("val/perplexity", "val", None),
    ("val/loss", "val", perplexity),
    ("train/loss", "train", perplexity),
)


def _accuracy(info: RunInfo) -> Panel:
    def percent(value: float) -> float:
        return 100 * value

    wanted = [("train", "train/accuracy", 0, percent), ("val", "val/accuracy", 1, percent)]
    curves, omitted = _curves(info, wanted)
    return _panel("Accuracy", "%", curves, omitted, limits=(0.0, 100.0), absent="val/accuracy")


def _rate(info: RunInfo) -> Panel:
    key = _first(info, ("train/learning_rate", "learning_rate"))
    curves, omitted = _curves(info, [("learning rate", key, 0, None)], smooth=False)
    span, wide = None, False
    if key in info.series and (points := _changed(info.series[key], None)):
        top = max(points, key=lambda point: (point[1], -point[0]))[0]
        # Every warm-up starts near zero; only a wide decay is worth a logarithmic scale.
        wide = _wide([value for step, value in points if step >= top])
        if top > points[0][0]:
            span = (points[0][0], top, "warm-up")
    panel = _panel("Learning rate", "per step", curves, omitted, span=span, absent=key)
    return replace(panel, log=panel.log and wide)


def _gradients(info: RunInfo) -> Panel:
    before = _first(info, ("train/grad_norm", "gradients/pre_clip_norm"))
    wanted = [("before clipping", before, 0, None), ("after clipping", "gradients/post_clip_norm", 2, None)]
    curves, omitted = _curves(info, wanted)
    highest = max((value for curve in curves for value in curve.values), default=0.0)
    return _panel(
        "Gradient norm", "L2", curves, omitted, warn_above=5.0 if highest > 5 else None, absent=before
    )


def _speed(info: RunInfo) -> Panel:
    key = _first(info, ("train/tokens_per_s", "train/samples_per_s"))
    counted = (info.run.summary or {}).get("unit", "tokens")
    unit = "samples/s" if "samples" in key else f"{counted}/s"
    curves, omitted = _curves(info, [(unit, key, 2, None)])
    level = limits = None
    if key in info.series and (points := _changed(info.series[key], None)):
        # From zero, so that a small jitter looks small.
        limits = (0.0, 1.2 * max(value for _, value in points) or 1.0)
        mean = math.fsum(value for _, value in points) / len(points)
        level = (mean, f"mean {mean:,.0f}")
    return _panel("Throughput", unit, curves, omitted, level=level, limits=limits, absent=key)


Wanted = tuple[str, str, int, "Callable[[float], float] | None"]


def _curves(info: RunInfo, wanted: Sequence[Wanted], *, smooth: bool = True) -> tuple[list[Curve], int]:
    curves: list[Curve] = []
    omitted = 0
    for label, key, colour, change in wanted:
        series = info.series.get(key)
        if series is None:
            continue
        points = _changed(series, change)
        omitted += len(series.steps) - len(points)
        noisy = smooth and len(points) > _SMOOTH_FROM
        if points:
            curves.append(_curve(label, points, colour, faint=noisy))
        if noisy:
            curves.append(_curve(f"{label}, running mean", _running_mean(points), colour))
    return curves, omitted


def _changed(series: Series, change: Callable[[float], float] | None) -> list[tuple[int, float]]:
    points = series.finite
    if change is not None:
        points = [(step, change(value)) for step, value in points]
    return [
        (step, value if abs(value) >= _SMALLEST else 0.0) for step, value in points if abs(value) <= _LARGEST
    ]


def _curve(label: str, points: Sequence[tuple[int, float]], colour: int, faint: bool = False) -> Curve:
    kept = shrink(points, MOST_POINTS)
    return Curve(label, [step for step, _ in kept], [value for _, value in kept], colour, faint)


def _running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Mean of as many points before as after, a fiftieth of the curve in all: it does not lag behind."""
    reach = max(len(points) // 100, 2)
    sums = [0.0, *accumulate(value for _, value in points)]
    smooth = []
    for place, (step, _) in enumerate(points):
        near = min(reach, place, len(points) - 1 - place)
        start, stop = place - near, place + near + 1
        smooth.append((step, (sums[stop] - sums[start]) / (stop - start)))
    return smooth


def shrink(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most `most` points that keep the first, the last, and the lowest and highest of each stretch."""
    if len(points) <= most:
        return list(points)
    stretches = (most - 2) // 2
    inner = len(points) - 2
    kept = {0, len(points) - 1}
    for place in range(stretches):
        start = 1 + place * inner // stretches
        stop = 1 + (place + 1) * inner // stretches
        kept.add(min(range(start, stop), key=lambda index: points[index][1]))
        kept.add(max(range(start, stop), key=lambda index: points[index][1]))
    return [points[index] for index in sorted(kept)]


def _panel(
    title: str,
    unit: str,
    curves: list[Curve],
    omitted: int,
    *,
    absent: str,
    star: tuple[int, float, str] | None = None,
    level: tuple[float, str] | None = None,
    span: tuple[int, int, str] | None = None,
    warn_above: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Panel:
    if not curves:
        reason = "no value can be drawn:" if omitted else "not logged:"
        return Panel(title, unit, absent=f"{reason} {absent}", omitted=omitted)
    log = limits is None and _wide([value for curve in curves for value in curve.values])
    return Panel(title, unit, curves, log, star, level, span, warn_above, limits, "", omitted)


def _wide(values: Sequence[float]) -> bool:
    """Whether a linear scale would hide the small values."""
    low, high = min(values), max(values)
    return low > 0 and high / low > _LOG_RATIO


def _first(info: RunInfo, keys: Sequence[str]) -> str:
    return next((key for key in keys if key in info.series), keys[0])
