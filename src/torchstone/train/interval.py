"""How sure a mean is: a confidence interval over texts, not over tokens, which are no independent draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
Z = 1.959963984540054
"""Standard normal quantile of (1 + LEVEL) / 2."""
FEWEST_DOCUMENTS = 10
"""With fewer, blocks are taken as the units: an interval from a handful of texts would say nothing."""


@dataclass(frozen=True)
class Units:
    """Which unit (document or block) each example belongs to."""

    name: str
    """documents, blocks or examples."""
    of_example: np.ndarray[Any, Any]

    @property
    def count(self) -> int:
        return len(np.unique(self.of_example))

    @property
    def method(self) -> str:
        return (
            f"{LEVEL:.0%} Student interval of the ratio estimator (Taylor linearisation) "
            f"over {self.count} {self.name}"
        )


def ratio_interval(sums: Any, counts: Any, units: Units) -> tuple[float, float] | None:
    """Interval of sum(sums) / sum(counts), both given per example; None for fewer than two units.

    Cochran, Sampling Techniques, 3rd ed., section 6.4: units of unequal size weigh what they hold.
    """
    _, place = np.unique(units.of_example, return_inverse=True)
    num_units = int(place.max()) + 1 if len(place) else 0
    if num_units < 2:
        return None
    of_unit = np.zeros(num_units), np.zeros(num_units)
    for total, values in zip(of_unit, (sums, counts), strict=True):
        np.add.at(total, place, np.asarray(values, dtype=np.float64))
    x, n = of_unit
    ratio = x.sum() / n.sum()
    residuals = x - ratio * n
    error = math.sqrt(num_units / (num_units - 1) * float((residuals**2).sum())) / float(n.sum())
    reach = student_quantile(num_units - 1) * error
    return float(ratio - reach), float(ratio + reach)


def student_quantile(degrees: int) -> float:
    """Quantile (1 + LEVEL) / 2 of Student's t, from the normal one.

    Abramowitz & Stegun 26.7.5; up to four degrees, where the series is too short, the table's values.
    """
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}
    if degrees in table:
        return table[degrees]
    v = float(degrees)
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    return Z + sum(term / v ** (power + 1) for power, term in enumerate(terms))
