"""The familiar dictionaries: their keys, and that the status is the calibrated one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from drift.samples import lengths

from torchstone._errors import DataError
from torchstone.drift.familiar import (
    compare_profiles,
    compute_dataset_profile,
    compute_drift,
    profile_dataset,
)

TEXT, VISION = SimpleNamespace(modality="text"), SimpleNamespace(modality="vision")


def texts(count: int, seed: int, mean: float = 50.0, classes: int = 2) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": rng.integers(0, 50_257, size), "labels": int(rng.integers(0, classes))}
        for size in lengths(count, rng, mean=mean)
    ]


def images(count: int, seed: int, scale: float = 1.0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [{"pixel_values": rng.random((3, 6, 6)) * scale, "label": place % 3} for place in range(count)]


def test_texts_have_the_familiar_keys() -> None:
    profile = compute_dataset_profile(texts(300, 0), TEXT)
    again = json.loads(json.dumps(profile))
    assert {
        "modality",
        "seq_length_mean",
        "seq_length_std",
        "top_tokens",
        "output_classes",
        "output_hist",
    } <= set(again)
    assert (len(again["seq_length_hist"]), len(again["seq_length_bins"]), len(again["top_tokens"])) == (
        10,
        11,
        100,
    )
    found = compare_profiles(again, compute_dataset_profile(texts(300, 1), TEXT))
    assert set(found["drift_scores"]) == {"seq_length_js", "token_overlap", "output_kl", "output_js"}
    assert found["status"] == "ok"  # although hardly a token of a uniform vocabulary of 50,257 is shared
    assert found["max_drift"] > 0.5


def test_a_shift_is_told_in_familiar_words() -> None:
    reference, new = (
        compute_dataset_profile(texts(300, seed, mean), TEXT) for seed, mean in ((0, 50), (1, 90))
    )
    found = compare_profiles(reference, new)
    assert found["status"] in ("warn", "alert") and "length" in found["verdict"]["drifted"]
    scores, status = compute_drift(reference, new)
    assert status == found["status"] and {"sequence_length", "vocabulary"} <= set(scores)


def test_images_have_the_familiar_keys() -> None:
    reference = profile_dataset(images(80, 0), VISION)
    assert {"channel_means", "channel_stds", "brightness_hist", "brightness_bins"} <= set(reference)
    assert len(reference["channel_means"]) == 3 and len(reference["brightness_hist"]) == 5
    darker = compare_profiles(reference, profile_dataset(images(80, 1, 0.7), VISION))
    assert set(darker["drift_scores"]) == {"channel_mean_distance", "brightness_js", "output_kl", "output_js"}
    assert darker["status"] == "alert"
    assert "brightness" in compute_drift(reference, reference)[0]


def test_the_sample_is_not_the_front_of_the_data() -> None:
    """Sorted data: the first 100 items say nothing of the rest."""
    rows = [{"input_ids": [1] * size} for size in range(1, 1001)]
    profile = compute_dataset_profile(rows, TEXT, sample_size=100)
    assert profile["seq_length_mean"] == pytest.approx(500, abs=100)


def test_labels_of_language_models_and_padding_are_no_outputs() -> None:
    rows = [{"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0], "labels": [1, 2, -100]}] * 10
    profile = compute_dataset_profile(rows, TEXT)
    assert "output_hist" not in profile and profile["seq_length_mean"] == 2


def test_what_is_no_profile_is_refused() -> None:
    good = compute_dataset_profile(texts(20, 0), TEXT)
    for bad in ({}, {"rows": "?"}, {"rows": "AAAA"}):
        with pytest.raises(DataError):
            compare_profiles(good, bad)
    with pytest.raises(ValueError, match="text and vision"):
        compare_profiles(good, compute_dataset_profile(images(20, 0), VISION))
    with pytest.raises(DataError, match="holds none of"):
        compute_dataset_profile([{"body": "x"}], TEXT)
    with pytest.raises(DataError, match="empty"):
        compute_dataset_profile([], TEXT)
    with pytest.raises(DataError, match="audio"):
        compute_dataset_profile([{}], SimpleNamespace(modality="audio"))
