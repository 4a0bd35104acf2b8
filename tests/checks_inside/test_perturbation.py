"""perturbation: figures by hand, noise where it belongs, faults found."""

from __future__ import annotations

import pytest
import torch
from checks_inside.attending import WAYS, Attending

import torchstone as ts
from torchstone.checks.tier2.perturbation import NOISE, compare


@pytest.mark.parametrize("way", [way for way in WAYS if way != "flex"])
def test_every_model_takes_noise(way: str) -> None:
    torch.manual_seed(0)
    found = ts.check(Attending(way), only=["perturbation"])["perturbation"]
    assert found.status == "pass", found.summary
    levels = found.details["noise"]
    assert [each["level"] for each in levels] == list(NOISE)
    assert (levels[0]["kl"], levels[0]["agreement"], levels[0]["flipped"]) == (0, 1, 0)
    assert 0 < levels[1]["kl"] < levels[-1]["kl"]
    assert all(each["kl_interval"][0] <= each["kl"] <= each["kl_interval"][1] for each in levels)
    assert len(found.details["token_substitution"]) == 3


@pytest.mark.parametrize(("fault", "word"), [("random", "another answer"), ("deaf", "does not reach")])
def test_a_fault_is_found(fault: str, word: str) -> None:
    found = ts.check(Attending("softmax", fault), only=["perturbation"])["perturbation"]
    assert found.status == "fail" and word in found.summary


def test_images_take_noise_too() -> None:
    found = ts.check("zoo:lenet5", only=["perturbation"])["perturbation"]
    assert found.status == "pass" and found.details["token_substitution"] == []


def test_figures_by_hand() -> None:
    """Two rows of two positions; one answer of four changes; KL is per position, not summed."""
    clean = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.9, 0.1], [0.9, 0.1]]]).log()
    changed = clean.clone()
    changed[0, 0] = torch.tensor([0.1, 0.9]).log()
    found = compare(0.1, clean, changed)
    assert (found.agreement, found.flipped, found.rows) == (0.75, 0.5, 2)
    expected = 0.9 * torch.tensor(9.0).log() - 0.1 * torch.tensor(9.0).log()
    assert found.kl == pytest.approx(float(expected) / 4, rel=1e-5)
    assert found.agreement_interval[1] == 1.0 and found.agreement_interval[0] < 0.75
