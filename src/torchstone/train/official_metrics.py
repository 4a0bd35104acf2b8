"""The metrics that benchmarks rank by, on arrays: predictions and truth, one entry per example.

    METRICS["matthews"](said, true)

Each is a number between -1 or 0 and 1, better the higher it is, and 0 where it is undefined because one side
is constant (as in scikit-learn for Matthews and F1; scipy gives NaN for the correlations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]


def accuracy(said: Values, true: Values) -> float:
    return float((said == true).mean())


def f1(said: Values, true: Values) -> float:
    """Of class 1: the harmonic mean of precision and recall."""
    right, both = int(((said == 1) & (true == 1)).sum()), int((said == 1).sum() + (true == 1).sum())
    return 2 * right / both if both else 0.0


def matthews(said: Values, true: Values) -> float:
    """Correlation of the answers, for any number of classes (Gorodkin 2004, Comput. Biol. Chem. 28)."""
    classes = np.union1d(said, true)
    said_as, true_as = (each[:, None] == classes for each in (said, true))
    return _correlation(said_as.astype(float), true_as.astype(float))


def pearson(said: Values, true: Values) -> float:
    return _correlation(said.astype(float)[:, None], true.astype(float)[:, None])


def spearman(said: Values, true: Values) -> float:
    """Pearson's of the ranks; equal values share the mean of theirs."""
    return pearson(_ranks(said), _ranks(true))


def _correlation(a: Values, b: Values) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    spread = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return float((a * b).sum()) / spread if spread > 1e-12 else 0.0


def _ranks(values: Values) -> Values:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


METRICS: Mapping[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
