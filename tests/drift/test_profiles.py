"""Profiles: what they count, that parts merge into the whole, that files hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drift.samples import KINDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchstone._errors import DataError
from torchstone.drift import distances
from torchstone.drift.profile import Profile
from torchstone.drift.tables import profile_sounds, profile_table
from torchstone.drift.texts import BUCKETS, profile_texts
from torchstone.drift.vision import profile_images

ROWS = st.lists(st.binary(max_size=12).map(list), min_size=1, max_size=40)
FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(rows=ROWS, cut=st.integers(0, 40), keep=st.integers(1, 60))
def test_parts_of_a_stream_merge_into_counts_of_the_whole(rows: list[list[int]], cut: int, keep: int) -> None:
    cut = min(cut, len(rows))
    whole = profile_texts(rows, keep=keep)
    merged = profile_texts(rows[:cut], keep=keep).merge(profile_texts(rows[cut:], keep=keep, start=cut))
    assert merged.rows_seen == whole.rows_seen == len(rows)
    assert merged.rows_kept == whole.rows_kept == min(keep, len(rows))
    for name, (values, often) in whole.counts.items():
        found = dict(zip(*(each.tolist() for each in merged.counts[name]), strict=True))
        assert found == dict(zip(values.tolist(), often.tolist(), strict=True))


@FEW
@given(rows=ROWS)
def test_a_profile_counts_what_is_there(rows: list[list[int]]) -> None:
    profile = profile_texts(rows, unknown_id=0, byte_ids=range(1, 50))
    assert profile.numbers["length"].tolist() == [len(row) for row in rows]
    for place, row in enumerate(rows):
        size = max(1, len(row))
        assert profile.numbers["unknown rate"][place] == pytest.approx(row.count(0) / size)
        assert profile.numbers["byte-fallback rate"][place] == pytest.approx(
            sum(0 < each < 50 for each in row) / size
        )
        assert profile.vectors["tokens"][place].sum() == pytest.approx(float(bool(row)))
    assert profile.vectors["tokens"].shape == (len(rows), BUCKETS)
    assert profile.counts["tokens"][1].sum() == sum(map(len, rows))


def test_padding_is_no_text() -> None:
    assert profile_texts([[5, 6, 0, 0]], pad_id=0).numbers["length"].tolist() == [2]


def test_every_row_is_kept_equally_often() -> None:
    """Bottom-k over three parts: no part is favoured (3.3 standard errors)."""
    kept = np.zeros(3)
    for seed in range(300):
        parts = [
            profile_table({"x": np.full(20, part)}, keep=15, seed=seed, start=20 * part) for part in range(3)
        ]
        merged = parts[0].merge(parts[1]).merge(parts[2])
        kept += np.bincount(merged.numbers["x"].astype(int), minlength=3)
    assert kept.sum() == 300 * 15
    assert np.abs(kept - 1500).max() < 3.3 * np.sqrt(300 * 15 * (2 / 9) * (45 / 59))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_a_profile(kind: str, tmp_path: Path) -> None:
    profile = KINDS[kind](30, np.random.default_rng(0))
    profile.save(tmp_path / "p.npz")
    loaded = Profile.load(tmp_path / "p.npz")
    assert (loaded.modality, loaded.rows_seen, loaded.keep) == (
        profile.modality,
        profile.rows_seen,
        profile.keep,
    )
    for of in ("numbers", "categories", "vectors"):
        assert set(getattr(loaded, of)) == set(getattr(profile, of))
        for name, column in getattr(profile, of).items():
            np.testing.assert_array_equal(getattr(loaded, of)[name], column)
    for name, pair in profile.counts.items():
        np.testing.assert_array_equal(loaded.counts[name], pair)


@pytest.mark.parametrize("damage", ["missing", "text", "cut"])
def test_what_is_no_profile_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    if damage == "text":
        path.write_text("no archive")
    if damage == "cut":
        profile_table({"x": [1, 2]}).save(path)
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError):
        Profile.load(path)


def test_images_and_sounds_are_measured() -> None:
    picture = np.stack([np.zeros((2, 2)), np.ones((2, 2)), np.array([[0, 1], [0, 1]])])
    profile = profile_images([picture, (picture * 255).astype(np.uint8)])
    assert profile.vectors["channels"].tolist() == [[0, 1, 0.5, 0, 0, 0.5]] * 2
    assert profile.numbers["brightness"].tolist() == [0.5, 0.5]
    seconds = np.arange(8000) / 8000
    tone = profile_sounds([0.5 * np.sin(2 * np.pi * 440 * seconds + 0.1)], rate=8000)
    measured = {name: column[0] for name, column in tone.numbers.items()}
    assert measured["duration"] == 1.0 and measured["spectral centroid"] == pytest.approx(440, abs=1)
    assert measured["level"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert measured["zero crossings"] == pytest.approx(880, abs=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: profile_texts([[0.5]]),
        lambda: profile_texts([[1]], outputs=[1, 2]),
        lambda: profile_images([]),
        lambda: profile_images([np.zeros(3)]),
        lambda: profile_table({}),
        lambda: profile_table({"a": [1], "b": [1, 2]}),
        lambda: profile_sounds([np.zeros((2, 2))], rate=8),
        lambda: profile_table({"a": [1]}).merge(profile_table({"b": [1]})),
    ],
)
def test_rows_that_are_none_are_refused(make) -> None:
    with pytest.raises(DataError):
        make()


def test_distances_by_hand() -> None:
    assert distances.js_distance(np.array([1, 0]), np.array([0, 1])) == pytest.approx(distances.LARGEST_JS)
    assert distances.js_distance(np.array([1, 3]), np.array([2, 6])) == 0.0
    assert distances.kl_divergence(np.array([1, 1]), np.array([1, 3])) == pytest.approx(
        0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    )
    assert distances.population_stability_index(np.array([1, 1]), np.array([1, 3])) == pytest.approx(
        (0.25 - 0.5) * np.log(0.5) + (0.75 - 0.5) * np.log(1.5)
    )
    frequent = np.array([1, 2, 3]), np.array([5, 4, 1])
    assert distances.token_overlap(frequent, (np.array([2, 9]), np.array([1, 1])), top=2) == 0.5


@FEW
@given(
    p=st.lists(st.integers(0, 50), min_size=4, max_size=4),
    q=st.lists(st.integers(0, 50), min_size=4, max_size=4),
)
def test_js_is_a_symmetric_distance_within_its_bound(p: list[int], q: list[int]) -> None:
    one = distances.js_distance(np.array(p), np.array(q))
    assert one == pytest.approx(distances.js_distance(np.array(q), np.array(p)), abs=1e-9)
    assert 0 <= one <= distances.LARGEST_JS + 1e-9
