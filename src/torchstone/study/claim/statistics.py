"""How large an effect is, how sure that is, and how many seeds would tell it. Pure functions on numbers.

Arms that share their seeds are compared in pairs (Student, 1908), others by unequal variances (Welch, 1947).
A relative effect is estimated on logarithms, so it is a ratio and its interval cannot leave the possible.
The power of n seeds is that of the noncentral t distribution; several comparisons are corrected by Holm
(1979). With at least `ENOUGH_TO_BOOTSTRAP` seeds per arm a bias-corrected bootstrap (Efron, 1987) checks the
interval; on fewer seeds its intervals are too short.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchstone._optional import require

POWER = 0.8
"""Probability with which the needed seeds would show the claimed effect."""
ENOUGH_TO_BOOTSTRAP = 20
MOST_SEEDS = 10_000
_RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The improvement of a candidate over the baseline, before it is turned back into units of the claim."""

    mean: float
    """Above 0: the candidate is better."""
    error: float
    """Standard error of the mean; 0 where all seeds agree exactly."""
    degrees: float
    """Of freedom."""
    paired: bool
    num_baseline: int
    num_candidate: int
    spread: float
    """Standard deviation that one more seed (or pair) has."""

    def p_above(self, level: float) -> float:
        """Probability of so large a gain if the true one were `level`: one-sided."""
        if not self.error:
            return 0.0 if self.mean > level else 1.0
        return float(_special().stdtr(self.degrees, (level - self.mean) / self.error))

    def interval(self, confidence: float) -> tuple[float, float]:
        half = float(_special().stdtrit(self.degrees, 0.5 + confidence / 2)) * self.error
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Scale:
    """How a metric becomes a number that is better the higher it is, and how a gain is told."""

    lower_is_better: bool
    relative: bool

    def of(self, values: Mapping[int, float]) -> dict[int, float]:
        """Seed -> value, in the order of the seeds."""
        sign = -1.0 if self.lower_is_better else 1.0
        return {
            seed: sign * (math.log(values[seed]) if self.relative else values[seed])
            for seed in sorted(values)
        }

    def told(self, gain: float) -> float:
        """A gain in percent of the baseline, or in units of the metric."""
        if not self.relative:
            return gain
        return 100 * (-math.expm1(-gain) if self.lower_is_better else math.expm1(gain))

    def meant(self, effect: float) -> float:
        """The gain that is told as `effect`."""
        if not self.relative:
            return effect
        return -math.log1p(-effect / 100) if self.lower_is_better else math.log1p(effect / 100)


def estimate(baseline: Mapping[int, float], candidate: Mapping[int, float]) -> Gain:
    """From seed -> scaled value of both arms, at least two seeds each."""
    a, b = (np.array(list(arm.values())) for arm in (baseline, candidate))
    if baseline.keys() == candidate.keys():
        spread = _spread(b - a)
        error, degrees = spread / math.sqrt(len(a)), len(a) - 1.0
    else:
        spread = math.hypot(_spread(a), _spread(b))
        shares = _spread(a) ** 2 / len(a), _spread(b) ** 2 / len(b)
        error = math.sqrt(sum(shares))
        below = shares[0] ** 2 / (len(a) - 1) + shares[1] ** 2 / (len(b) - 1)
        degrees = sum(shares) ** 2 / below if below else len(a) + len(b) - 2.0
    return Gain(
        mean=float(b.mean() - a.mean()),
        error=error,
        degrees=degrees,
        paired=baseline.keys() == candidate.keys(),
        num_baseline=len(a),
        num_candidate=len(b),
        spread=spread,
    )


def _spread(values: Any) -> float:
    """Standard deviation of the population, from a sample; rounding alone counts as none."""
    spread = float(values.std(ddof=1))
    return spread if spread > 1e-13 * float(np.abs(values).max()) else 0.0


def needed_seeds(found: Gain, effect: float, confidence: float, power: float = POWER) -> int | None:
    """Seeds per arm with which an effect of that size is shown with that power; None beyond `MOST_SEEDS`.

    The spread is the one that was seen, so the number is as uncertain as it.
    """
    if effect <= 0:
        return None
    if not found.spread:
        return 2

    def is_enough(num: int) -> bool:
        degrees = num - 1 if found.paired else 2 * (num - 1)
        limit = _special().stdtrit(degrees, 0.5 + confidence / 2)
        shift = effect * math.sqrt(num) / found.spread
        # Far out the tail of the noncentral distribution is no longer computed, and is 1.
        return shift > limit + 30 or 1.0 - float(_special().nctdtr(degrees, shift, limit)) >= power

    high = 2
    while not is_enough(high):
        if high >= MOST_SEEDS:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: each may be held against the level of a single comparison (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def bootstrap_interval(
    baseline: Mapping[int, float], candidate: Mapping[int, float], confidence: float
) -> tuple[float, float] | None:
    """Of the same gain by resampling seeds; None where that cannot be relied on."""
    found = estimate(baseline, candidate)
    if min(len(baseline), len(candidate)) < ENOUGH_TO_BOOTSTRAP or not found.spread:
        return None
    a, b = (np.array(list(arm.values())) for arm in (baseline, candidate))
    samples = (b - a,) if found.paired else (a, b)

    def difference(*arms: Any, axis: int = -1) -> Any:
        means = [np.mean(arm, axis=axis) for arm in arms]
        return means[-1] - (means[0] if len(means) > 1 else 0.0)

    drawn = require("scipy.stats", "stats").bootstrap(
        samples,
        difference,
        vectorized=True,
        confidence_level=confidence,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _special() -> Any:
    return require("scipy.special", "stats")
