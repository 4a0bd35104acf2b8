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


class Reliability:
    """How sure a model was and how often it was right, in bins of confidence; added up batch by batch."""

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.rows, self.sure, self.right, self.spread = np.zeros((4, bins))

    def add(self, top: Array, right: Array) -> None:
        """`top`: probability of the likeliest class [rows]; `right`: whether it was the true one [rows].

        A NaN makes the error NaN: such a model is sure of nothing.
        """
        cell = np.minimum((np.nan_to_num(top) * self.bins).astype(np.int64), self.bins - 1)
        for total, values in (
            (self.rows, np.ones(len(top))),
            (self.sure, top),
            (self.right, right.astype(np.float64)),
            (self.spread, top * (1 - top)),
        ):
            total += np.bincount(cell, weights=values, minlength=self.bins)

    @property
    def num_rows(self) -> int:
        return int(self.rows.sum())

    @property
    def error(self) -> float:
        """Expected calibration error."""
        return float(np.abs(self.right - self.sure).sum() / max(1, self.num_rows))

    def by_chance(self, quantile: float = 1.645) -> float:
        """The error that a calibrated model stays under in 95 % of samples of this size.

        In each bin hits are then a sum of draws that are right as often as said, so the gap is near normal
        with variance sum p (1 - p), its magnitude half-normal; the sum over bins is taken as normal.
        """
        mean = float(np.sqrt(2 / np.pi * self.spread).sum())
        deviation = float(np.sqrt((1 - 2 / np.pi) * self.spread.sum()))
        return (mean + quantile * deviation) / max(1, self.num_rows)

    def to_dict(self) -> dict[str, Any]:
        held = self.rows > 0
        return {
            "calibration_error": self.error,
            "by_chance": self.by_chance(),
            "confidence": float(self.sure.sum() / max(1, self.num_rows)),
            "accuracy": float(self.right.sum() / max(1, self.num_rows)),
            "targets": self.num_rows,
            "bins": [
                {"rows": int(rows), "confidence": float(sure / rows), "accuracy": float(right / rows)}
                for rows, sure, right in zip(self.rows[held], self.sure[held], self.right[held], strict=True)
            ],
        }


def calibration_error(top: Array, right: Array, bins: int = BINS) -> float:
    """`top`: probability of the predicted class [rows]; `right`: whether it was the true one [rows]."""
    found = Reliability(bins)
    found.add(top, right)
    return found.error


def _array(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    return np.asarray(values)
