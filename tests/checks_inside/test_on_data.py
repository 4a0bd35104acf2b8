"""Tier 5: calibration and drift, each with a model or data that must fail and its healthy twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checks_inside.attending import Attending
from torch import Tensor, nn

import torchstone as ts
from torchstone.drift.confidence import Reliability
from torchstone.tracking.records import CheckResult

CLASSES, IDS = 3, 20


class Table(nn.Module):
    """Says for each id what stands in a table, times `sureness`."""

    def __init__(self, sureness: float) -> None:
        super().__init__()
        self.scores = nn.Embedding(IDS, CLASSES)
        self.sureness = sureness
        self.config = {"num_labels": CLASSES, "vocab_size": IDS}

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.scores(input_ids)[:, 0] * self.sureness


def judged(sureness: float) -> CheckResult:
    """Labels are drawn from what the table itself says, so it is calibrated at a sureness of one."""
    torch.manual_seed(0)
    model = Table(sureness)
    ids = torch.randint(0, IDS, (600, 1))
    labels = torch.multinomial(model.scores(ids)[:, 0].softmax(-1), 1)[:, 0]
    rows = [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]
    report = ts.check(model, task="classification", only=["calibration"], wishes={"data": rows})
    return report["calibration"]


@pytest.mark.parametrize(("sureness", "status"), [(1.0, "pass"), (5.0, "fail")])
def test_right_as_often_as_it_says(sureness: float, status: str) -> None:
    found = judged(sureness)
    assert found.status == status, found.summary
    assert ("too sure" in found.summary) == (status == "fail")
    assert found.details["targets"] == 600


def test_what_chance_allows_is_what_calibrated_samples_show() -> None:
    """5 % of calibrated samples exceed the limit, give or take three standard errors of 1,000."""
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(1000):
        sample = Reliability()
        top = rng.uniform(0.34, 1.0, 400)
        sample.add(top, rng.random(400) < top)
        beyond += sample.error > sample.by_chance()
    assert abs(beyond / 1000 - 0.05) <= 3 * np.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(("factor", "status"), [(1, "pass"), (2, "fail")])
def test_data_that_drifted_and_data_that_did_not(factor: int, status: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, times in (("known", 1), ("new", factor)):
        lines = [" ".join(["word"] * int(n * times)) for n in rng.integers(3, 30, 200)]
        (tmp_path / f"{name}.csv").write_text("text\n" + "\n".join(lines) + "\n")
    wishes = {"data": str(tmp_path / "new.csv"), "reference": str(tmp_path / "known.csv")}
    found = ts.check(Attending("softmax"), only=["drift"], wishes=wishes)["drift"]
    assert found.status == status, found.summary
    assert ("length" in found.summary) == (status == "fail")


def test_without_data_the_checks_say_what_is_missing() -> None:
    report = ts.check(Table(1.0), task="classification", only=["drift", "calibration"])
    assert {each.status for each in report} == {"skip"}
    assert all(each.hint and "--data" in each.hint for each in report)
