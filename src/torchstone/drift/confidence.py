"""How sure a model is, and whether it is right as often as it says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from torchstone._errors import DataError
from torchstone.drift.profile import Array

BINS = 15


@dataclass(frozen=True, kw_only=True)
class Confidence:
    top1_confidence: float
    """Mean probability of the most likely class."""
    top5_confidence: float
    """Mean probability of the five most likely together; of all where there are fewer."""
    entropy: float
    """Mean entropy of the predicted distributions, in nats."""
    accuracy: float
    calibration_error: float
    """Expected calibration error: mean over bins of |accuracy - confidence|, weighted by their rows."""
    num_samples: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def confidence(logits: Any, labels: Any, *, ignore_index: int = -100, bins: int = BINS) -> Confidence:
    """Of logits [..., classes] and labels [...]; places labelled `ignore_index` do not count.

    Expected calibration error with bins of equal width after Naeini et al. 2015, "Obtaining Well Calibrated
    Probabilities Using Bayesian Binning".
    """
    scores = _array(logits)
    scores = scores.reshape(-1, scores.shape[-1]).astype(np.float64)
    truth = _array(labels).reshape(-1)
    if len(scores) != len(truth):
        raise DataError(
            f"{len(scores)} rows of logits for {len(truth)} labels", next="give one label per row"
        )
    held = truth != ignore_index
    scores, truth = scores[held], truth[held]
    if not len(truth):
        raise DataError(
            "every label is ignored", why=f"all are {ignore_index}", next="give labels that count"
        )
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise DataError(
            f"labels go from {truth.min()} to {truth.max()}", why=f"there are {scores.shape[1]} classes"
        )
    if not np.isfinite(scores).all():
        raise DataError("the logits hold NaN or infinity", next="torchstone check finds where they come from")
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probabilities = np.exp(logs)
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    five = min(5, scores.shape[1])
    return Confidence(
        top1_confidence=float(top.mean()),
        top5_confidence=float(np.sort(probabilities, axis=1)[:, -five:].sum(axis=1).mean()),
        entropy=float(-(probabilities * logs).sum(axis=1).mean()),
        accuracy=float(right.mean()),
        calibration_error=calibration_error(top, right, bins),
        num_samples=len(truth),
    )


def calibration_error(top: Array, right: Array, bins: int = BINS) -> float:
    """`top`: probability of the predicted class [rows]; `right`: whether it was the true one [rows]."""
    cell = np.minimum((top * bins).astype(np.int64), bins - 1)
    gap = np.bincount(cell, weights=right.astype(np.float64) - top, minlength=bins)
    return float(np.abs(gap).sum() / len(top))


def _array(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    return np.asarray(values)
