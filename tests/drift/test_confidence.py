"""Confidence and calibration against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchstone._errors import DataError
from torchstone.drift.confidence import calibration_error, confidence


def test_by_hand() -> None:
    """Two rows say 0.8 and one of them is right: confidence 0.8, accuracy 0.5, error 0.3."""
    logits = torch.tensor([[0.8, 0.2], [0.2, 0.8], [9.0, 1.0]]).log()
    found = confidence(logits, torch.tensor([0, 0, -100]))
    assert found.num_samples == 2
    assert found.top1_confidence == pytest.approx(0.8, abs=1e-6)
    assert found.top5_confidence == pytest.approx(1.0)
    assert found.entropy == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), abs=1e-6)
    assert (found.accuracy, found.calibration_error) == (0.5, pytest.approx(0.3, abs=1e-6))


def test_a_calibrated_model_has_no_error() -> None:
    """Drawn from its own probabilities, a model is right as often as it says."""
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, 40_000)
    assert calibration_error(top, rng.random(40_000) < top) < 0.02
    assert calibration_error(top, np.ones(40_000, dtype=bool)) == pytest.approx(0.25, abs=0.01)


def test_sequences_are_rows() -> None:
    logits = torch.randn(2, 3, 7)
    assert confidence(logits, torch.zeros(2, 3, dtype=torch.long)).num_samples == 6
    assert confidence(logits.bfloat16(), np.zeros((2, 3), dtype=int)).num_samples == 6


@pytest.mark.parametrize(
    ("logits", "labels"),
    [([[1.0, 2.0]], [0, 1]), ([[1.0, 2.0]], [-100]), ([[1.0, 2.0]], [2]), ([[np.nan, 2.0]], [0])],
)
def test_what_cannot_be_judged_is_refused(logits, labels) -> None:
    with pytest.raises(DataError):
        confidence(logits, labels)
