"""Whether two profiles come from one distribution, with a false-alarm rate that holds.

    verdict = compare(reference, new)            # false alarms: 5 %
    verdict.alarm, verdict.p_value, verdict.features

Every feature is tested (`row_tests.py`), and the smallest weighted p-value is compared with its distribution
when rows are dealt out anew at random (Westfall and Young 1993, minP). Up to DEALT rows per side this is the
exact permutation test of all rows; beyond, each feature's p-value is analytic and only the dependence between
the features, which sample size does not change, is read from fewer rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from torchstone._errors import DataError
from torchstone.drift import distances
from torchstone.drift.chi_square import noncentrality, survival
from torchstone.drift.profile import Array, Profile
from torchstone.drift.row_tests import RowTest, row_tests

Zone = Literal["healthy", "warning", "critical"]

FALSE_ALARM_RATE = 0.05
DEALS = 999
DEALT = 1000
"""Rows per side up to which all are dealt."""
DEALT_OF_MANY = 500
"""Rows per side that are dealt where there are more: enough to show how features depend on each other."""
POWER = 0.8
FEWEST_ROWS = 8
WARNING, CRITICAL = 0.1, 0.2
"""The familiar limits of a distance. They colour a display; the verdict does not use them."""


@dataclass(frozen=True, kw_only=True)
class FeatureDrift:
    """What became of one feature."""

    feature: str
    alarm: bool
    p_value: float
    """Smallest of its tests, adjusted for all tests of the comparison."""
    aspect: str
    """Which test that was: location, spread, missing, classes or shares."""
    distance: float
    """Jensen-Shannon distance of the histograms, 0 to 0.83; of `channels`, the Euclidean one of the means."""
    zone: Zone
    """The familiar colour of the distance: under 0.1, under 0.2, above."""
    reference: float | None
    """Mean, where it is a number."""
    new: float | None
    detectable: float
    """The smallest effect found with 80 % power: in standard deviations, or Cohen's w for classes."""
    detectable_change: float | None
    """The same in the feature's own unit, where it is a number."""
    scores: dict[str, float]
    """Further distances: js, kl, psi, overlap ..."""


@dataclass(frozen=True, kw_only=True)
class DriftVerdict:
    modality: str
    alarm: bool
    p_value: float
    """Chance of so small a p-value in some feature if nothing had drifted."""
    false_alarm_rate: float
    rows: tuple[int, int]
    """Rows of the reference and of the new data that were compared."""
    exact: bool
    """Whether all rows were dealt; else large-sample p-values."""
    features: tuple[FeatureDrift, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def max_distance(self) -> float:
        return max((each.distance for each in self.features), default=0.0)


def compare(
    reference: Profile,
    new: Profile,
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    deals: int = DEALS,
    seed: int = 0,
) -> DriftVerdict:
    """Raises DataError for profiles that cannot be compared: other data, other columns, too few rows."""
    _comparable(reference, new)
    tests = row_tests(reference, new)
    sizes = (reference.rows_kept, new.rows_kept)
    if not tests:
        return _verdict(reference, new, [], np.empty(0), np.ones(deals), 1.0, false_alarm_rate)
    observed = np.array(
        [float(survival(test.statistic(test.difference, sizes), test.degrees)) for test in tests]
    )
    weights = np.array([test.weight for test in tests])
    dealt = _dealt_minima(tests, weights, sizes, deals, np.random.default_rng([seed, *sizes]))
    # Mid-p: ties with the observed value count half, so that data of few values are not judged too mildly.
    adjusted = np.array([_mid_p(dealt, value) for value in observed / weights])
    return _verdict(reference, new, tests, adjusted, dealt, float(adjusted.min()), false_alarm_rate)


def _comparable(reference: Profile, new: Profile) -> None:
    if reference.modality != new.modality:
        raise DataError(
            f"{reference.modality} and {new.modality} cannot be compared",
            next="profile the same kind of data",
        )
    for kind in ("numbers", "categories", "vectors"):
        one, other = set(getattr(reference, kind)), set(getattr(new, kind))
        if one != other:
            raise DataError(
                f"only one of the profiles has {', '.join(sorted(one ^ other))}",
                why="drift is a difference in the same features",
                next="profile both with the same options",
            )
    fewest = min(reference.rows_kept, new.rows_kept)
    if fewest < FEWEST_ROWS:
        raise DataError(
            f"{fewest} rows are too few for a verdict",
            next=f"compare at least {FEWEST_ROWS} rows with as many",
        )


def _dealt_minima(
    tests: list[RowTest], weights: Array, sizes: tuple[int, int], deals: int, rng: np.random.Generator
) -> Array:
    """[deals]: the smallest weighted p-value when the rows are dealt out anew."""
    most = DEALT if max(sizes) <= DEALT else DEALT_OF_MANY
    taken = min(sizes[0], most), min(sizes[1], most)
    chosen = np.concatenate(
        [
            rng.choice(sizes[0], taken[0], replace=False),
            sizes[0] + rng.choice(sizes[1], taken[1], replace=False),
        ]
    )
    columns = [test.columns(chosen) for test in tests]
    table = np.concatenate(columns, axis=1).astype(np.float32)
    table -= table.mean(axis=0)
    order = rng.random((deals, len(chosen)), dtype=np.float32)
    threshold = np.partition(order, taken[1] - 1, axis=1)[:, taken[1] - 1 : taken[1]]
    member = (order <= threshold).astype(np.float32)
    # Centred columns sum to zero, so the sum over the new rows gives the difference of both means.
    moved = (member @ table) * (len(chosen) / (taken[0] * taken[1]))
    smallest = np.full(deals, np.inf)
    start = 0
    for test, weight, column in zip(tests, weights, columns, strict=True):
        difference = moved[:, start : start + column.shape[1]].astype(np.float64)
        start += column.shape[1]
        p = survival(test.statistic(difference, taken), test.degrees)
        smallest = np.minimum(smallest, p / weight)
    return smallest


def _mid_p(dealt: Array, value: float) -> float:
    tolerance = 1e-5 * value + 1e-12  # float32 sums of the same rows in another order
    below = np.count_nonzero(dealt < value - tolerance)
    tied = np.count_nonzero(dealt <= value + tolerance) - below
    return (below + 0.5 * (tied + 1)) / (len(dealt) + 1)


def _verdict(
    reference: Profile,
    new: Profile,
    tests: list[RowTest],
    adjusted: Array,
    dealt: Array,
    p_value: float,
    rate: float,
) -> DriftVerdict:
    sizes = (reference.rows_kept, new.rows_kept)
    level = float(np.quantile(dealt, rate))
    features = []
    for name in dict.fromkeys(test.feature for test in tests):
        mine = [(float(p), test) for p, test in zip(adjusted, tests, strict=True) if test.feature == name]
        smallest, guilty = min(mine, key=lambda pair: pair[0])
        features.append(_feature(reference, new, name, guilty, smallest, smallest <= rate, level, sizes))
    return DriftVerdict(
        modality=reference.modality,
        alarm=p_value <= rate,
        p_value=p_value,
        false_alarm_rate=rate,
        rows=sizes,
        exact=max(sizes) <= DEALT,
        features=tuple(features),
    )


def _feature(
    reference: Profile,
    new: Profile,
    name: str,
    test: RowTest,
    p_value: float,
    alarm: bool,
    level: float,
    sizes: tuple[int, int],
) -> FeatureDrift:
    scores = _scores(reference, new, name)
    shown = scores.get("js", scores.get("distance", 0.0))
    local = min(0.5, max(1e-12, level * test.weight))
    detectable = float(
        np.sqrt(noncentrality(local, test.degrees, POWER) * (sizes[0] + sizes[1]) / (sizes[0] * sizes[1]))
    )
    mean = [
        float(np.nanmean(each.numbers[name])) if name in each.numbers else None for each in (reference, new)
    ]
    spread = float(np.nanstd(reference.numbers[name])) if name in reference.numbers else None
    return FeatureDrift(
        feature=name,
        alarm=alarm,
        p_value=p_value,
        aspect=test.aspect,
        distance=shown,
        zone="healthy" if shown < WARNING else "warning" if shown < CRITICAL else "critical",
        reference=mean[0],
        new=mean[1],
        detectable=detectable,
        detectable_change=None if spread is None else detectable * spread,
        scores=scores,
    )


def _scores(reference: Profile, new: Profile, name: str) -> dict[str, float]:
    if name in reference.numbers:
        left, right = (each.numbers[name][~np.isnan(each.numbers[name])] for each in (reference, new))
        if not len(left) or not len(right):
            return {}
        _, p, q = distances.histograms(left, right)
    elif name in reference.counts and name in new.counts:
        p, q = distances.aligned(reference.counts[name], new.counts[name])
    else:
        return {"distance": distances.channel_distance(reference.vectors[name], new.vectors[name])}
    found = {
        "js": distances.js_distance(p, q),
        "kl": distances.kl_divergence(p, q),
        "psi": distances.population_stability_index(p, q),
    }
    if name == "tokens":
        found["overlap"] = distances.token_overlap(reference.counts[name], new.counts[name])
    return found
