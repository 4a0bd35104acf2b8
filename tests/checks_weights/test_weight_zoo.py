"""Every check convicts the models that must fail it and acquits their healthy twins."""

from __future__ import annotations

from collections import Counter

import pytest
from zoo.weights import CASES, Case

from torchstone.checks.run import check

LABELS = [f"{case.check}: {case.name}" for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=LABELS)
def test_the_broken_model_fails(case: Case) -> None:
    found = check(case.broken(), only=[case.check], task=case.task, config=case.config).checks[0]
    assert found.status == "fail", found.summary
    if case.module is not None:
        assert found.module == case.module, found.summary


@pytest.mark.parametrize("case", CASES, ids=LABELS)
def test_the_healthy_twin_passes(case: Case) -> None:
    found = check(case.healthy(), only=[case.check], task=case.task, config=case.config).checks[0]
    assert found.status == "pass", found.summary


def test_every_check_has_two_models_that_must_fail_it() -> None:
    counts = Counter(case.check for case in CASES)
    assert {name for name, number in counts.items() if number < 2} == set()
    assert len(counts) == 14
