"""Profiles and scores as dictionaries with the familiar keys.

    reference = compute_dataset_profile(dataset, task)            # JSON-serialisable
    compare_profiles(reference, compute_dataset_profile(new, task))["status"]

Keys and figures are those that dashboards and databases of the Colab templates hold. What decides is not:
`status` is the calibrated verdict, so two samples of one distribution are "ok" 19 times of 20 at any size.
Rows are drawn at random, not taken from the front, and classes that only one side knows count.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from torchstone._errors import DataError
from torchstone.drift import distances
from torchstone.drift.profile import Array, Profile, load_profile
from torchstone.drift.texts import profile_texts
from torchstone.drift.verdict import CRITICAL, DriftVerdict, compare
from torchstone.drift.vision import profile_images

Status = Literal["ok", "warn", "alert"]
LENGTH_EDGES = np.linspace(0, 512, 11)
BRIGHTNESS_EDGES = np.linspace(0, 1, 6)
TOP_TOKENS = 100
LABELS = ("predictions", "prediction", "labels", "label")
DOCUMENTED = {
    "seq_length_js": "sequence_length",
    "token_overlap": "vocabulary",
    "brightness_js": "brightness",
}


class Task(Protocol):
    @property
    def modality(self) -> str: ...


def compute_dataset_profile(
    dataset: Any, task_spec: Task, sample_size: int = 1000, *, seed: int = 0
) -> dict[str, Any]:
    """The profile of at most `sample_size` random items, which hold `input_ids`, `text` or `pixel_values`."""
    if task_spec.modality not in ("text", "vision"):
        raise DataError(
            f"there is no familiar profile of {task_spec.modality} data",
            next="torchstone.drift.profile_table or profile_sounds",
        )
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:sample_size]
    items = [dataset[int(place)] for place in np.sort(chosen)]
    if not items:
        raise DataError("the dataset is empty", next="give at least one item")
    outputs = _outputs(items)
    if task_spec.modality == "text":
        profile = profile_texts([_row(item) for item in items], outputs=outputs, keep=sample_size, seed=seed)
        familiar = _text_keys(profile)
    else:
        images = [np.asarray(_first_of(item, ("pixel_values", "image", "images"))) for item in items]
        profile = profile_images(images, outputs=outputs, keep=sample_size, seed=seed)
        familiar = _vision_keys(profile)
    if outputs is not None:
        values, often = profile.counts["output"]
        familiar |= {"output_classes": values.tolist(), "output_hist": (often / often.sum()).tolist()}
    return {"modality": task_spec.modality, **familiar, "rows": _packed(profile)}


profile_dataset = compute_dataset_profile


def compare_profiles(ref_profile: dict[str, Any], new_profile: dict[str, Any]) -> dict[str, Any]:
    """{"drift_scores", "status", "max_drift", "verdict"}; ValueError where the modalities differ."""
    reference, new = _unpacked(ref_profile), _unpacked(new_profile)
    verdict = compare(reference, new)
    scores = _scores(reference, new)
    largest = max(_as_drift(name, score) for name, score in scores.items())
    status: Status = "ok" if not verdict.alarm else "alert" if largest > CRITICAL else "warn"
    return {
        "drift_scores": scores,
        "status": status,
        "max_drift": largest,
        "verdict": _short(verdict),
    }


def compute_drift(
    ref_profile: dict[str, Any], new_profile: dict[str, Any]
) -> tuple[dict[str, float], Status]:
    """(scores under their documented names, status)."""
    found = compare_profiles(ref_profile, new_profile)
    scores = {DOCUMENTED.get(name, name): score for name, score in found["drift_scores"].items()}
    return scores, found["status"]


def _text_keys(profile: Profile) -> dict[str, Any]:
    lengths = profile.numbers["length"]
    # The outer cell is open: a length above 512 counts in the last one, and the verdict sees it as it is.
    hist = np.histogram(np.minimum(lengths, LENGTH_EDGES[-1]), LENGTH_EDGES)[0]
    tokens, often = profile.counts["tokens"]
    top = np.argsort(-often, kind="stable")[:TOP_TOKENS]
    return {
        "seq_length_mean": float(lengths.mean()),
        "seq_length_std": float(lengths.std()),
        "seq_length_hist": (hist / hist.sum()).tolist(),
        "seq_length_bins": LENGTH_EDGES.tolist(),
        "top_tokens": tokens[top].tolist(),
    }


def _vision_keys(profile: Profile) -> dict[str, Any]:
    statistics = profile.vectors["channels"].mean(axis=0)
    channels = len(statistics) // 2
    hist = np.histogram(np.clip(profile.numbers["brightness"], 0, 1), BRIGHTNESS_EDGES)[0]
    return {
        "channel_means": statistics[:channels].tolist(),
        "channel_stds": statistics[channels:].tolist(),
        "brightness_hist": (hist / hist.sum()).tolist(),
        "brightness_bins": BRIGHTNESS_EDGES.tolist(),
    }


def _scores(reference: Profile, new: Profile) -> dict[str, float]:
    scores: dict[str, float] = {}
    if reference.modality == "text":
        left, right = reference.numbers["length"], new.numbers["length"]
        _, p, q = distances.histograms(left, right)
        scores["seq_length_js"] = distances.js_distance(p, q)
        scores["token_overlap"] = distances.token_overlap(reference.counts["tokens"], new.counts["tokens"])
    else:
        channels = reference.vectors["channels"].shape[1] // 2
        scores["channel_mean_distance"] = distances.channel_distance(
            reference.vectors["channels"][:, :channels], new.vectors["channels"][:, :channels]
        )
        _, p, q = distances.histograms(reference.numbers["brightness"], new.numbers["brightness"])
        scores["brightness_js"] = distances.js_distance(p, q)
    if "output" in reference.counts and "output" in new.counts:
        p, q = distances.aligned(reference.counts["output"], new.counts["output"])
        scores["output_kl"] = distances.kl_divergence(q, p)
        scores["output_js"] = distances.js_distance(p, q)
    return scores


def _as_drift(name: str, score: float) -> float:
    if name == "token_overlap":
        return 1 - score
    return min(1.0, score)


def _short(verdict: DriftVerdict) -> dict[str, Any]:
    return {
        "alarm": verdict.alarm,
        "p_value": verdict.p_value,
        "false_alarm_rate": verdict.false_alarm_rate,
        "drifted": [each.feature for each in verdict.features if each.alarm],
    }


def _outputs(items: list[Any]) -> list[Any] | None:
    """One class per item; labels that are sequences, as in language modelling, are no classes."""
    for name in LABELS:
        if all(isinstance(item, Mapping) and item.get(name) is not None for item in items):
            values = [np.asarray(item[name]) for item in items]
            if all(value.size == 1 for value in values):
                return [value.reshape(-1)[0].item() for value in values]
    return None


def _row(item: Any) -> Array:
    """Ids without padding; of text without ids, its UTF-8 bytes."""
    if isinstance(item, str):
        return np.frombuffer(item.encode(), dtype=np.uint8).astype(np.int64)
    found = item.get("input_ids") if isinstance(item, Mapping) else None
    if found is None:
        return _row(str(_first_of(item, ("text",))))
    ids = np.asarray(found).reshape(-1)
    mask = item.get("attention_mask")
    return ids if mask is None else ids[np.asarray(mask).reshape(-1) != 0]


def _first_of(item: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if isinstance(item, Mapping) and item.get(name) is not None:
            return item[name]
    held = ", ".join(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
    raise DataError(
        f"an item holds none of {', '.join(names)}", why=f"it holds {held}", next="name its columns so"
    )


def _packed(profile: Profile) -> str:
    buffer = io.BytesIO()
    profile.write(buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _unpacked(profile: dict[str, Any]) -> Profile:
    try:
        packed = base64.b64decode(profile["rows"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            "this profile holds no rows to judge by",
            why="a verdict with a known rate of false alarms needs them; histograms alone do not give it",
            next="make the profile anew with compute_dataset_profile",
        ) from None
    return load_profile(io.BytesIO(packed), "the profile")
