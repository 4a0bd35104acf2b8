"""Every leak check convicts each model that has its leak, names the module, and passes the healthy twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn
from zoo.leak_cases import CASES, Case
from zoo.leaks import ForgottenDropout, IgnoresMask, MeanBlock, Remembering, block_with_mlp
from zoo.tiny import with_attention, with_block

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


@pytest.mark.parametrize(
    ("build", "others"),
    [
        (with_block(1, block_with_mlp(ForgottenDropout)), ["causal-leak", "batch-leak", "state-leak"]),
        (with_attention(2, Remembering), ["causal-leak", "batch-leak", "eval-determinism", "cache-parity"]),
        (with_attention(1, IgnoresMask), ["causal-leak", "batch-leak", "state-leak", "position-sensitivity"]),
        (with_block(1, MeanBlock), ["batch-leak", "state-leak", "eval-determinism"]),
    ],
    ids=["dropout left on", "keeps state", "ignores the mask", "mean over tokens"],
)
def test_one_fault_is_not_taken_for_another(build: Callable[[], nn.Module], others: list[str]) -> None:
    report = ts.check(build(), task="causal-lm", only=others)
    assert {each.id: each.status for each in report} == dict.fromkeys(others, "pass")
