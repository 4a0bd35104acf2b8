"""Distances between two samples, for display; the verdict does not rest on them.

Each is large between two small samples of one distribution too: a fixed threshold on it raises false alarms,
which is why `verdict.py` decides another way.
"""

from __future__ import annotations

import math

import numpy as np

from torchstone.drift.profile import Array

SMALLEST_SHARE = 1e-6
"""What an empty cell counts as in KL and PSI, which are infinite otherwise."""
LARGEST_JS = math.sqrt(math.log(2))
BINS = 10


def js_distance(p: Array, q: Array) -> float:
    """Square root of the Jensen-Shannon divergence in nats: 0 to 0.8326 (Endres and Schindelin 2003)."""
    p, q = _shares(p), _shares(q)
    middle = (p + q) / 2
    return math.sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def kl_divergence(p: Array, q: Array) -> float:
    """KL(p || q) in nats, with empty cells of `q` at SMALLEST_SHARE."""
    p, q = _shares(p), _floored(_shares(q))
    return max(0.0, _divergence(p, q))


def population_stability_index(p: Array, q: Array) -> float:
    """sum (q - p) ln(q / p), with empty cells at SMALLEST_SHARE (Siddiqi 2006, "Credit Risk Scorecards")."""
    p, q = _floored(_shares(p)), _floored(_shares(q))
    return float(((q - p) * np.log(q / p)).sum())


def token_overlap(reference: tuple[Array, Array], new: tuple[Array, Array], top: int = 100) -> float:
    """Share of the reference's most frequent values that are among the most frequent of the new data."""
    first, second = _most_frequent(reference, top), _most_frequent(new, top)
    return len(np.intersect1d(first, second)) / len(first) if len(first) else 1.0


def channel_distance(reference: Array, new: Array) -> float:
    """Euclidean distance of the mean rows of two samples [rows, width]."""
    return float(np.linalg.norm(reference.mean(axis=0) - new.mean(axis=0)))


def aligned(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """Counts of both over the values of either: a value that only one of them holds counts too."""
    values = np.union1d(left[0], right[0])
    return _at(values, left), _at(values, right)


def histograms(reference: Array, new: Array, bins: int = BINS) -> tuple[Array, Array, Array]:
    """(edges, counts, counts) over cells of about equal share in the reference; the outer ones are open."""
    inner = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    edges = np.concatenate([[-np.inf], inner, [np.inf]])

    def counts(values: Array) -> Array:
        return np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)

    return edges, counts(reference), counts(new)


def _at(values: Array, counts: tuple[Array, Array]) -> Array:
    result = np.zeros(len(values), dtype=np.int64)
    result[np.searchsorted(values, counts[0])] = counts[1]
    return result


def _most_frequent(counts: tuple[Array, Array], top: int) -> Array:
    return counts[0][np.argsort(-counts[1], kind="stable")[:top]]


def _shares(counts: Array) -> Array:
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    return counts / total if total else np.full(len(counts), 1 / max(1, len(counts)))


def _floored(shares: Array) -> Array:
    raised = np.maximum(shares, SMALLEST_SHARE)
    return raised / raised.sum()


def _divergence(p: Array, q: Array) -> float:
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())
