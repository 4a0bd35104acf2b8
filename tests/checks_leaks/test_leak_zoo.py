"""Every leak check convicts each model that has its leak, names the module, and passes the healthy twin."""

from __future__ import annotations

import pytest
from zoo.leak_cases import CASES, Case

import torchstone as ts

LEAK_CHECKS = {
    "causal-leak", "padding-leak", "batch-leak", "state-leak", "eval-determinism",
    "position-sensitivity", "position-limit", "vocab-range", "cache-parity",
}  # fmt: skip


def _ids(case: Case) -> str:
    return f"{case.check}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_broken_is_convicted(case: Case) -> None:
    found = ts.check(case.broken(), only=[case.check], task=case.task, config=case.config)[case.check]
    assert found.status == case.status, found
    if case.module is not None:
        assert found.module == case.module, found


@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_healthy_twin_passes(case: Case) -> None:
    found = ts.check(case.healthy(), only=[case.check], task=case.task, config=case.config)[case.check]
    assert found.status == case.healthy_status, found


def test_every_leak_check_has_two_models_that_fail_it() -> None:
    for check in LEAK_CHECKS:
        assert sum(case.check == check and case.status == "fail" for case in CASES) >= 2, check
