"""The rates themselves, over thousands of pairs: `pytest -m campaign tests/drift -s` prints the table."""

from __future__ import annotations

import numpy as np
import pytest
from drift.samples import KINDS, lengths

from torchstone.drift.texts import profile_flat_texts
from torchstone.drift.verdict import compare

TRIALS = 2000
SIZES = (50, 200, 1000, 10_000)


@pytest.mark.campaign
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_false_alarms(kind: str, rows: int) -> None:
    """At most 5 % + 1.5 % of pairs of one distribution alarm, and at least 5 % - 1.5 %."""
    rng = np.random.default_rng([rows, len(kind)])
    alarms = sum(
        compare(KINDS[kind](rows, rng), KINDS[kind](rows, rng), deals=199, seed=trial).alarm
        for trial in range(TRIALS)
    )
    print(f"\n| {kind} | {rows:,} | {TRIALS} | {100 * alarms / TRIALS:.2f} % |")
    assert abs(alarms / TRIALS - 0.05) <= 0.015


@pytest.mark.campaign
@pytest.mark.parametrize("family", ["lognormal", "gamma", "normal"])
@pytest.mark.parametrize("reference_rows", [1000, 10_000])
def test_power(family: str, reference_rows: int) -> None:
    """How often a tenth more length is found in 1,000 new rows; the table is the result."""
    rng = np.random.default_rng(reference_rows)
    found = 0
    for trial in range(500):
        sizes = lengths(reference_rows, rng, family), np.round(lengths(1000, rng, family) * 1.1).astype(int)
        one, other = (profile_flat_texts(rng.integers(0, 500, each.sum()), each) for each in sizes)
        found += compare(one, other, deals=199, seed=trial).alarm
    print(f"\n| {family} | {reference_rows:,} | 1,000 | {100 * found / 500:.1f} % |")
    assert found / 500 >= 0.6
