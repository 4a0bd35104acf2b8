"""What is kept of one comparison: enough to draw it and to judge again whether it was drift, and no rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchstone.drift import distances
from torchstone.drift.profile import Array, Profile
from torchstone.drift.verdict import CRITICAL, DriftVerdict

SHOWN_CELLS = 24
SHOWN_CLASSES = 12


def drift_record(verdict: DriftVerdict, reference: Profile, new: Profile) -> dict[str, Any]:
    """JSON: the verdict, and histograms of the feature that differs most.

    `js_divergence`, `status` (healthy, warning, critical) and `affected_features` are the familiar keys. The
    status is the verdict's: a distance colours it only where there is an alarm.
    """
    shown = _most_drifted(verdict, new)
    return {
        "js_divergence": verdict.max_distance,
        "status": status_of(verdict),
        "affected_features": [each.feature for each in verdict.features if each.alarm],
        "details": {each.feature: each.distance for each in verdict.features},
        "histogram": None if shown is None else _histogram(reference, new, shown),
        **verdict.to_dict(),
    }


def status_of(verdict: DriftVerdict) -> str:
    if not verdict.alarm:
        return "healthy"
    return "critical" if verdict.max_distance > CRITICAL else "warning"


def _most_drifted(verdict: DriftVerdict, new: Profile) -> str | None:
    """Of the features with a histogram: the one of the smallest p-value, then of the largest distance."""
    drawn = [each for each in verdict.features if each.feature in (*new.numbers, *new.categories)]
    if not drawn:
        return None
    return min(drawn, key=lambda each: (each.p_value, -each.distance)).feature


def _histogram(reference: Profile, new: Profile, feature: str) -> dict[str, Any]:
    """{"feature", "edges" or "classes", "reference", "new"}: shares of the rows."""
    if feature in new.numbers:
        left, right = (each.numbers[feature] for each in (reference, new))
        both = np.concatenate([left, right])
        both = both[np.isfinite(both)]
        # The middle 98 %: one row a hundred times as long would leave all others in one cell.
        low, high = np.quantile(both, [0.01, 0.99]) if len(both) else (0.0, 1.0)
        edges = np.linspace(low, high if high > low else low + 1.0, SHOWN_CELLS + 1)
        shares = [
            _shares(np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0]) for each in (left, right)
        ]
        return {"feature": feature, "edges": edges.tolist(), "reference": shares[0], "new": shares[1]}
    p, q = distances.aligned(reference.counts[feature], new.counts[feature])
    classes = np.union1d(reference.counts[feature][0], new.counts[feature][0])
    chosen = np.sort(np.argsort(-(p + q), kind="stable")[:SHOWN_CLASSES])
    return {
        "feature": feature,
        "classes": [str(classes[each]) for each in chosen],
        "reference": [_shares(p)[each] for each in chosen],
        "new": [_shares(q)[each] for each in chosen],
    }


def _shares(counts: Array) -> list[float]:
    return [float(each) for each in counts / max(1, counts.sum())]
