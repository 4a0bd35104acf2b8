"""The chi-square distribution, central and not: how surprising a statistic is, and what a test can find."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from torchstone.drift.profile import Array

MOST_TERMS = 4000
NORMAL = NormalDist()


def survival(statistic: Array, degrees: int) -> Array:
    """P(chi-square >= statistic)."""
    from torch import as_tensor, float64, special

    half = as_tensor(np.asarray(statistic) / 2, dtype=float64)
    return special.gammaincc(as_tensor(degrees / 2, dtype=float64), half).numpy()


def critical_value(level: float, degrees: int) -> float:
    """The statistic that is reached with probability `level`."""
    if degrees == 1:
        return NORMAL.inv_cdf(1 - level / 2) ** 2
    # Wilson and Hilferty (1931) start within a few percent.
    z = NORMAL.inv_cdf(1 - level)
    start = degrees * max(0.1, 1 - 2 / (9 * degrees) + z * (2 / (9 * degrees)) ** 0.5) ** 3
    return _solve(lambda value: float(survival(np.array(value), degrees)), level, start)


def noncentrality(level: float, degrees: int, power: float) -> float:
    """The noncentrality at which a test of `level` rejects with probability `power`."""
    if degrees == 1:
        return (NORMAL.inv_cdf(1 - level / 2) + NORMAL.inv_cdf(power)) ** 2  # the far tail is negligible
    critical = critical_value(level, degrees)
    return _solve(lambda value: 1 - _power(critical, degrees, value), 1 - power, max(1.0, critical))


def _solve(falling: Callable[[float], float], target: float, start: float) -> float:
    """Where a falling function of positive numbers meets `target`: false position on logarithms."""
    goal = np.log(target)

    def excess(value: float) -> float:
        return float(np.log(max(falling(value), 1e-300)) - goal)

    low, high = start / 2, start * 2
    at_low, at_high = excess(low), excess(high)
    while at_low < 0:
        low, high, at_high = low / 4, low, at_low
        at_low = excess(low)
    while at_high > 0:
        low, high, at_low = high, high * 4, at_high
        at_high = excess(high)
    for _ in range(40):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        found = excess(middle)
        if abs(found) < 1e-6:
            break
        # Illinois: the end that stays counts half, so both ends close in.
        if found > 0:
            low, at_low, at_high = middle, found, at_high / 2
        else:
            high, at_high, at_low = middle, found, at_low / 2
    return middle


def _power(critical: float, degrees: int, noncentral: float) -> float:
    """A noncentral chi-square is a Poisson mixture of central ones with 2 more degrees each."""
    from torch import arange, as_tensor, float64, special

    terms = min(MOST_TERMS, int(noncentral / 2 + 12 * np.sqrt(noncentral / 2) + 30))
    order = arange(terms, dtype=float64)
    mean = as_tensor(noncentral / 2, dtype=float64)
    weight = (special.xlogy(order, mean) - mean - special.gammaln(order + 1)).exp()
    tail = special.gammaincc(degrees / 2 + order, as_tensor(critical / 2, dtype=float64))
    return float((weight * tail).sum())
