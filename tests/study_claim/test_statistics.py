"""The numbers equal those of the literature, and keep what they promise in simulation."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from torchstone._errors import MissingExtra
from torchstone.study.claim.statistics import (
    MOST_SEEDS,
    Scale,
    bootstrap_interval,
    estimate,
    holm,
    needed_seeds,
)

HIGHER = Scale(lower_is_better=False, relative=False)


def arm(values: np.ndarray, first: int = 0) -> dict[int, float]:
    return {first + place: float(value) for place, value in enumerate(values)}


@pytest.mark.parametrize("seed", range(5))
def test_arms_with_the_same_seeds_equal_the_paired_test(seed: int) -> None:
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=6), draw.normal(0.5, size=6)
    found, known = estimate(arm(a), arm(b)), stats.ttest_rel(b, a, alternative="greater")
    assert found.paired
    assert found.p_above(0.0) == pytest.approx(known.pvalue)
    two_sided = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((two_sided.low, two_sided.high))


@pytest.mark.parametrize("seed", range(5))
def test_arms_with_other_seeds_equal_welch(seed: int) -> None:
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=4), draw.normal(0.5, 3, size=7)
    found = estimate(arm(a), arm(b, first=100))
    known = stats.ttest_ind(b, a, equal_var=False, alternative="greater")
    assert not found.paired
    assert found.degrees == pytest.approx(known.df)
    assert found.p_above(0.0) == pytest.approx(known.pvalue)
    two_sided = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((two_sided.low, two_sided.high))


def test_pairs_follow_the_seed_not_the_order() -> None:
    found = estimate({1: 1.0, 2: 2.0, 3: 3.0}, {3: 4.0, 1: 2.1, 2: 3.0})
    scaled = estimate(HIGHER.of({1: 1.0, 2: 2.0, 3: 3.0}), HIGHER.of({3: 4.0, 1: 2.1, 2: 3.0}))
    assert scaled.mean == pytest.approx(found.mean)
    assert scaled.spread == pytest.approx(np.std([1.1, 1.0, 1.0], ddof=1))


@given(
    st.floats(0.01, 90),
    st.booleans(),
    st.floats(0.1, 1e3),
)
def test_a_relative_effect_comes_back(percent: float, lower: bool, baseline: float) -> None:
    scale = Scale(lower_is_better=lower, relative=True)
    candidate = baseline * (1 - percent / 100 if lower else 1 + percent / 100)
    gain = scale.of({1: candidate})[1] - scale.of({1: baseline})[1]
    assert scale.told(gain) == pytest.approx(percent)
    assert scale.meant(percent) == pytest.approx(gain)


def test_an_absolute_effect_is_in_units_of_the_metric() -> None:
    scale = Scale(lower_is_better=True, relative=False)
    assert scale.told(scale.of({1: 2.5})[1] - scale.of({1: 3.0})[1]) == scale.meant(0.5) == 0.5


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_needed_seeds_have_the_promised_power_in_simulation(paired: bool, effect: float) -> None:
    draw = np.random.default_rng(0)
    spread = 1.0 if paired else math.sqrt(2)
    like = estimate(arm(np.array([0.0, 0.0])), arm(np.array([1.0, 0.0]), first=0 if paired else 10))
    known = type(like)(**{**vars(like), "spread": spread})
    num = needed_seeds(known, effect, 0.95)
    assert num is not None

    def power(count: int) -> float:
        a, b = draw.normal(size=(4000, count)), draw.normal(effect, size=(4000, count))
        if paired:
            test = stats.ttest_1samp(draw.normal(effect, size=(4000, count)), 0, axis=1)
        else:
            test = stats.ttest_ind(b, a, axis=1)
        return float(np.mean((test.pvalue < 0.05) & (test.statistic > 0)))

    assert power(num) > 0.77
    assert num == 2 or power(num - 1) < 0.83


def test_needed_seeds_at_the_edges() -> None:
    noisy = estimate({1: 0.0, 2: 5.0}, {1: 1.0, 2: 3.0})
    assert needed_seeds(noisy, 0.0, 0.95) is None
    assert needed_seeds(noisy, 1e-9, 0.95) is None
    assert needed_seeds(noisy, 1e9, 0.95) == 2
    exact = estimate({1: 0.0, 2: 0.0}, {1: 1.0, 2: 1.0})
    assert needed_seeds(exact, 1.0, 0.95) == 2
    assert MOST_SEEDS >= 10_000


def test_holm_on_the_example_of_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4]) == [0.4]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_helps(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(before <= after for before, after in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert all(one[1] <= other[1] for one, other in pairwise(pairs))


def test_without_spread_nothing_is_shown_by_rounding() -> None:
    found = estimate({1: 0.1, 2: 0.2, 3: 0.3}, {1: 0.4, 2: 0.5, 3: 0.6})
    assert found.spread == 0.0
    assert found.interval(0.95) == (found.mean, found.mean)


def test_the_bootstrap_waits_for_enough_seeds_and_then_agrees() -> None:
    draw = np.random.default_rng(1)
    few, many = draw.normal(size=(2, 19)), draw.normal(size=(2, 40))
    assert bootstrap_interval(arm(few[0]), arm(few[1]), 0.95) is None
    for first in (0, 100):
        drawn = bootstrap_interval(arm(many[0]), arm(many[1] + 1, first=first), 0.95)
        by_t = estimate(arm(many[0]), arm(many[1] + 1, first=first)).interval(0.95)
        assert drawn is not None
        assert drawn == pytest.approx(by_t, abs=0.1)
        assert drawn == bootstrap_interval(arm(many[0]), arm(many[1] + 1, first=first), 0.95)


def test_without_scipy_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(MissingExtra) as missing:
        estimate({1: 0.0, 2: 1.0}, {1: 1.0, 2: 3.0}).p_above(0.0)
    assert "torchstone[stats]" in missing.value.next
