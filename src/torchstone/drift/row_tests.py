"""What is compared: every feature of a row as a few numbers whose means are equal where nothing drifted.

A number becomes its normal score (van der Waerden 1952), which for large samples loses nothing to the t-test
on any distribution (Chernoff and Savage 1958) and does not mind heavy tails, and the square of it for the
spread (Klotz 1962). A category becomes one indicator per class, which gives Pearson's chi-square. A vector
stays as it is, which gives Hotelling's T-square with the pooled covariance. All are one statistic: the
squared length of the whitened difference of means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchstone.drift.profile import Array, Profile, pooled_codes

MOST_CLASSES = 64
"""Classes that are told apart; rarer ones count as one."""
RAREST = 5.0
"""Expected count below which a class joins the rarer ones (Cochran 1954)."""
LOCATION_SHARE = 0.9
"""Of the weight of a number, what its location gets; the spread gets the rest."""
NEGLIGIBLE = 1e-6
"""Share of the largest variance under which a direction is rounding; shares sum to one, so one always is."""
LEADING = {"text": {"length": 0.9}, "vision": {"channels": 0.5, "brightness": 0.25}}
"""Shares of the false-alarm rate by modality; what is left is divided evenly among the other features.

The length of texts leads because small samples show it last: counts of tokens grow with every token.
"""


@dataclass(frozen=True)
class RowTest:
    """One test: `columns(rows)` [rows, c] are compared by their means after `whiten` [c, degrees]."""

    feature: str
    aspect: str
    """location, spread, missing, classes or shares."""
    weight: float
    columns: Callable[[Array], Array]
    """Indices of pooled rows -> their numbers."""
    difference: Array
    """[c]: mean of the new rows minus mean of the reference's."""
    whiten: Array

    @property
    def degrees(self) -> int:
        return int(self.whiten.shape[1])

    def statistic(self, difference: Array, sizes: tuple[int, int]) -> Array:
        """[...] from [..., c]: chi-square with `degrees` degrees of freedom where nothing drifted."""
        scale = sizes[0] * sizes[1] / (sizes[0] + sizes[1])
        return scale * ((difference @ self.whiten) ** 2).sum(axis=-1)


def row_tests(reference: Profile, new: Profile) -> list[RowTest]:
    """Tests of every feature that varies at all; weights sum to one."""
    found = [each for each in _all(reference, new) if each.degrees]
    leading = LEADING.get(reference.modality, {})
    features = list(dict.fromkeys(each.feature for each in found))
    others = [each for each in features if each not in leading]
    spare = 1.0 - sum(leading[each] for each in features if each in leading)
    weights = {each: leading.get(each, spare / max(1, len(others))) for each in features}
    shared = [each.weight * weights[each.feature] for each in found]
    total = sum(shared)
    return [
        RowTest(each.feature, each.aspect, share / total, each.columns, each.difference, each.whiten)
        for each, share in zip(found, shared, strict=True)
    ]


def _all(reference: Profile, new: Profile) -> Iterator[RowTest]:
    first = reference.rows_kept
    for name in reference.numbers:
        yield from _number_tests(name, np.concatenate([reference.numbers[name], new.numbers[name]]), first)
    for name in reference.categories:
        yield _class_test(name, *pooled_codes(reference, new, name), first)
    for name in reference.vectors:
        pooled = np.concatenate([reference.vectors[name], new.vectors[name]])
        yield _dense(name, "shares", 1.0, pooled, first)


def _number_tests(name: str, pooled: Array, first: int) -> Iterator[RowTest]:
    present = ~np.isnan(pooled)
    if not present.all():
        yield _dense(name, "missing", 1 - LOCATION_SHARE, (~present).astype(np.float64)[:, None], first)
    score = np.zeros(len(pooled))
    score[present] = normal_scores(pooled[present])
    yield _dense(name, "location", LOCATION_SHARE, score[:, None], first)
    # What location does not already say: the square, less its regression on the score.
    squared = np.where(present, score**2, 0.0)
    squared -= squared[present].mean() if present.any() else 0.0
    power = float(score @ score)
    spread = squared - score * (float(squared @ score) / power if power else 0.0)
    yield _dense(name, "spread", 1 - LOCATION_SHARE, np.where(present, spread, 0.0)[:, None], first)


def normal_scores(values: Array) -> Array:
    """Normal quantiles of the ranks, ties at the quantile of their mean rank."""
    from torch import from_numpy, special

    if not len(values):
        return values
    where, often = _places(values)
    rank = np.cumsum(often) - (often - 1) / 2
    scores = special.ndtri(from_numpy(rank / (len(values) + 1))).numpy()
    return np.asarray(scores)[where]


def _places(values: Array) -> tuple[Array, Array]:
    """(place of each value among the sorted ones, how often each is taken); whole numbers need no sorting."""
    low, high = values.min(), values.max()
    if high - low < 4 * len(values) and (values == np.floor(values)).all():
        where = (values - low).astype(np.int64)
        return where, np.bincount(where)
    _, where, often = np.unique(values, return_inverse=True, return_counts=True)
    return where, often


def _dense(feature: str, aspect: str, weight: float, pooled: Array, first: int) -> RowTest:
    mean = pooled.mean(axis=0, dtype=np.float64)
    # What is left to the new rows' sum: n_new (mean_new - mean) = scale (mean_new - mean_reference).
    scale = first * (len(pooled) - first) / len(pooled)
    centred = pooled - mean.astype(pooled.dtype)
    difference = centred[first:].sum(axis=0, dtype=np.float64) / scale
    covariance = (centred.T @ centred).astype(np.float64) / max(1, len(pooled) - 1)
    values, vectors = np.linalg.eigh(covariance)
    held = values > max(1e-12, NEGLIGIBLE * float(values[-1]))
    whiten = vectors[:, held] / np.sqrt(values[held])
    return RowTest(feature, aspect, weight, lambda rows: pooled[rows], difference, whiten)


def _class_test(feature: str, classes: int, codes: Array, first: int) -> RowTest:
    rows = len(codes)
    often = np.bincount(codes, minlength=classes)
    smaller = min(first, rows - first)
    common = np.argsort(-often, kind="stable")[:MOST_CLASSES]
    common = common[often[common] * smaller >= RAREST * rows]
    place = np.full(classes, len(common))
    place[common] = np.arange(len(common))
    codes = place[codes]
    width = len(common) + 1
    left = np.bincount(codes[:first], minlength=width)
    right = np.bincount(codes[first:], minlength=width)
    share = (left + right) / rows
    held = np.flatnonzero(share)
    whiten = np.zeros((width, max(0, len(held) - 1)))
    if len(held) > 1:
        # The indicators' covariance is diag(p) - p p', of one rank less than there are classes.
        p = share[held] * rows / (rows - 1)
        values, vectors = np.linalg.eigh(np.diag(p) - np.outer(share[held], p))
        whiten[held] = vectors[:, 1:] / np.sqrt(values[1:])
    identity: Any = np.eye(width)
    difference = right / max(1, right.sum()) - left / max(1, left.sum())
    return RowTest(feature, "classes", 1.0, lambda chosen: identity[codes[chosen]], difference, whiten)
