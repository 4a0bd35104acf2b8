"""The profile of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from torchstone._errors import DataError
from torchstone.drift.profile import KEPT_ROWS, Array, Profile, choose_rows, code_outputs, draw_priorities


def profile_images(
    images: Array | Sequence[Any],
    *,
    outputs: Sequence[Any] | None = None,
    keep: int = KEPT_ROWS,
    seed: int = 0,
    start: int = 0,
) -> Profile:
    """Mean and spread of each channel, brightness and classes of images [channels, height, width] in 0..1.

    Images may differ in height and width, not in channels. uint8 images are taken as 0..255.
    """
    if not len(images):
        raise DataError("there are no images to profile", next="give at least one")
    statistics = np.array([_statistics(_floats(image)) for image in images])
    channels = statistics.shape[1] // 2
    priority = draw_priorities(len(statistics), seed, start)
    kept = choose_rows(priority, keep)
    brightness = statistics[:, :channels].mean(axis=1)
    if outputs is not None and len(outputs) != len(statistics):
        raise DataError(
            f"{len(outputs)} outputs for {len(statistics)} images", next="give one class per image"
        )
    classes, counts = ({}, {}) if outputs is None else code_outputs(outputs)
    return Profile(
        modality="vision",
        rows_seen=len(statistics),
        priority=priority[kept],
        numbers={"brightness": brightness[kept]},
        vectors={"channels": statistics[kept].astype(np.float32)},
        categories={name: codes[kept] for name, codes in classes.items()},
        counts=counts,
        keep=keep,
    )


def _floats(image: Any) -> Array:
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or not array.size:
        raise DataError(
            "an image must be [channels, height, width]",
            why=f"this one has shape {np.shape(image)}",
            next="move the channels to the front",
        )
    return array / 255.0 if array.dtype == np.uint8 else array.astype(np.float64)


def _statistics(image: Array) -> Array:
    """[2 * channels]: means, then standard deviations."""
    return np.concatenate([image.mean(axis=(1, 2)), image.std(axis=(1, 2))])
