"""The verdict: false alarms at the declared rate, shifts found, the guilty feature named."""

from __future__ import annotations

import numpy as np
import pytest
from drift.samples import KINDS, images, lengths, table, texts

from torchstone._errors import DataError
from torchstone.drift.chi_square import critical_value, noncentrality, survival
from torchstone.drift.row_tests import normal_scores, row_tests
from torchstone.drift.tables import profile_table
from torchstone.drift.texts import profile_flat_texts, profile_texts
from torchstone.drift.verdict import compare
from torchstone.drift.vision import profile_images


def alarms(trials: int, make, rows: int, seed: int, deals: int = 199) -> float:
    rng = np.random.default_rng(seed)
    found = [
        compare(make(rows, rng), make(rows, rng), deals=deals, seed=trial).alarm for trial in range(trials)
    ]
    return float(np.mean(found))


def test_false_alarms_come_at_the_declared_rate() -> None:
    """320 pairs of one distribution, of every kind: 5 % alarm, give or take 3.3 standard errors."""
    found = [alarms(80, make, 40, seed=place, deals=99) for place, make in enumerate(KINDS.values())]
    assert abs(np.mean(found) - 0.05) <= 3.3 * np.sqrt(0.05 * 0.95 / (80 * len(KINDS)))


def test_large_samples_alarm_at_the_declared_rate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the rows that are dealt, p-values are analytic and only their dependence is dealt."""
    monkeypatch.setattr("torchstone.drift.verdict.DEALT", 60)
    monkeypatch.setattr("torchstone.drift.verdict.DEALT_OF_MANY", 60)
    assert abs(alarms(200, table, 200, seed=5, deals=99) - 0.05) <= 3.3 * np.sqrt(0.05 * 0.95 / 200)


def test_a_tenth_more_length_is_found() -> None:
    rng = np.random.default_rng(11)
    found = []
    for trial in range(60):
        sizes = lengths(1000, rng), lengths(1000, rng, mean=55.0)
        one, other = (profile_flat_texts(np.zeros(size.sum(), dtype=np.int64), size) for size in sizes)
        found.append(compare(one, other, deals=99, seed=trial).alarm)
    assert np.mean(found) >= 0.7  # 80 % and more, of 60 trials


def test_the_guilty_feature_is_named_with_its_change() -> None:
    rng = np.random.default_rng(2)
    reference = texts(600, rng)
    longer = texts(600, rng, mean=80.0)
    verdict = compare(reference, longer)
    assert verdict.alarm
    guilty = {each.feature for each in verdict.features if each.alarm}
    assert "length" in guilty and "output" not in guilty
    length = next(each for each in verdict.features if each.feature == "length")
    assert length.new == pytest.approx(80, rel=0.1) and length.aspect == "location"
    assert length.detectable_change == pytest.approx(length.detectable * 40, rel=0.25)


def test_a_new_class_counts() -> None:
    """Nine of ten rows with a class that the reference never saw."""
    rng = np.random.default_rng(3)
    ids = [rng.integers(0, 9, 20) for _ in range(200)]
    reference = profile_texts(ids, outputs=rng.integers(0, 2, 200))
    new = profile_texts(ids, outputs=np.where(rng.random(200) < 0.9, 2, 0))
    verdict = compare(reference, new)
    alarmed = [each for each in verdict.features if each.alarm]
    assert [each.feature for each in alarmed] == ["output"]
    assert alarmed[0].scores["js"] > 0.5


def test_spread_alone_is_found() -> None:
    rng = np.random.default_rng(4)
    one = profile_table({"x": rng.normal(0, 1, 500)})
    other = profile_table({"x": rng.normal(0, 1.5, 500)})
    verdict = compare(one, other)
    assert verdict.alarm and verdict.features[0].aspect == "spread"


def test_values_that_go_missing_are_found() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=400)
    gaps = np.where(rng.random(400) < 0.2, np.nan, rng.normal(size=400))
    verdict = compare(profile_table({"x": values}), profile_table({"x": gaps}))
    assert verdict.alarm and verdict.features[0].aspect == "missing"


def test_one_channel_that_darkens_is_found() -> None:
    rng = np.random.default_rng(6)
    pictures = rng.random((300, 3, 4, 4))
    darker = rng.random((300, 3, 4, 4))
    darker[:, 1] *= 0.9
    verdict = compare(profile_images(pictures), profile_images(darker))
    assert verdict.alarm and {each.feature for each in verdict.features if each.alarm} >= {"channels"}


def test_data_that_never_vary_do_not_alarm() -> None:
    same = profile_table({"x": np.ones(100), "name": np.array(["a"] * 100)})
    verdict = compare(same, same)
    assert not verdict.alarm and verdict.p_value == 1.0 and verdict.features == ()


def test_same_profiles_and_seed_give_the_same_verdict() -> None:
    rng = np.random.default_rng(7)
    one, other = table(80, rng), table(90, rng)
    assert compare(one, other, seed=3) == compare(one, other, seed=3)


@pytest.mark.parametrize("rows", [60, 1700])
def test_the_smallest_detectable_effect_is_detected_in_four_of_five(rows: int) -> None:
    """What a verdict prints as detectable, put in as a shift, must be found with 80 % power."""
    rng = np.random.default_rng(8)
    shift = (
        compare(profile_table({"x": rng.normal(size=rows)}), profile_table({"x": rng.normal(size=rows)}))
        .features[0]
        .detectable
    )
    found = [
        compare(
            profile_table({"x": rng.normal(size=rows)}),
            profile_table({"x": shift + rng.normal(size=rows)}),
            deals=99,
            seed=trial,
        ).alarm
        for trial in range(100)
    ]
    assert 0.66 <= np.mean(found) <= 0.95


def test_what_cannot_be_compared_is_refused() -> None:
    rng = np.random.default_rng(9)
    with pytest.raises(DataError, match="text and vision"):
        compare(texts(20, rng), images(20, rng))
    with pytest.raises(DataError, match="only one of the profiles has output"):
        compare(profile_texts([[1, 2]] * 20), profile_texts([[1, 2]] * 20, outputs=[1] * 20))
    with pytest.raises(DataError, match="too few"):
        compare(profile_texts([[1, 2]] * 3), profile_texts([[1, 2]] * 20))


def test_weights_share_the_whole_false_alarm_rate() -> None:
    rng = np.random.default_rng(10)
    for make in KINDS.values():
        tests = row_tests(make(40, rng), make(40, rng))
        assert sum(each.weight for each in tests) == pytest.approx(1.0)


def test_chi_square_agrees_with_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy comes with torchstone[stats]")
    for degrees in (1, 2, 31):
        assert survival(np.array([0.5, 30.0]), degrees) == pytest.approx(
            scipy_stats.chi2.sf([0.5, 30.0], degrees), rel=1e-9
        )
        critical = critical_value(0.01, degrees)
        assert critical == pytest.approx(scipy_stats.chi2.isf(0.01, degrees), rel=1e-6)
        found = noncentrality(0.01, degrees, 0.8)
        assert scipy_stats.ncx2.sf(critical, degrees, found) == pytest.approx(0.8, abs=1e-4)


def test_normal_scores_agree_with_scipy_on_ties() -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy comes with torchstone[stats]")
    rng = np.random.default_rng(12)
    for values in (rng.integers(0, 9, 200), rng.integers(0, 9, 200) * 0.5, rng.normal(size=200)):
        expected = scipy_stats.norm.ppf(scipy_stats.rankdata(values) / 201)
        assert normal_scores(values) == pytest.approx(expected, abs=1e-9)
