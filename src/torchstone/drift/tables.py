"""The profile of rows of a table, and of sounds as such rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchstone._errors import DataError
from torchstone.drift.profile import KEPT_ROWS, Array, Modality, Profile, choose_rows, coded, draw_priorities


def profile_table(
    columns: Mapping[str, Sequence[Any] | Array],
    *,
    keep: int = KEPT_ROWS,
    seed: int = 0,
    start: int = 0,
    modality: Modality = "tabular",
) -> Profile:
    """Columns of numbers stay numbers (None and NaN: no value); everything else is a category.

    A data frame is such a mapping: `profile_table({name: frame[name].to_numpy() for name in frame})`.
    """
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) != 1 or not min(sizes.values()):
        raise DataError(
            "the columns of a table must have rows, and equally many",
            why=", ".join(f"{name}: {size}" for name, size in sizes.items()) or "there are no columns",
            next="give every column one value per row",
        )
    priority = draw_priorities(next(iter(sizes.values())), seed, start)
    kept = choose_rows(priority, keep)
    numbers: dict[str, Array] = {}
    categories: dict[str, Array] = {}
    counts: dict[str, tuple[Array, Array]] = {}
    for name, column in columns.items():
        values = np.asarray(column)
        if values.ndim != 1:
            raise DataError(f"the column {name!r} has shape {values.shape}", next="give one value per row")
        if values.dtype.kind in "iuf":
            numbers[name] = values.astype(np.float64)
        elif values.dtype.kind == "O" and all(_is_number_or_none(each) for each in values):
            numbers[name] = np.array([np.nan if each is None else float(each) for each in values])
        else:
            categories[name], counts[name] = coded(values.astype(str))
    return Profile(
        modality=modality,
        rows_seen=len(priority),
        priority=priority[kept],
        numbers={name: column[kept] for name, column in numbers.items()},
        categories={name: column[kept] for name, column in categories.items()},
        counts=counts,
        keep=keep,
    )


def profile_sounds(
    sounds: Sequence[Array],
    *,
    rate: int,
    outputs: Sequence[Any] | None = None,
    keep: int = KEPT_ROWS,
    seed: int = 0,
    start: int = 0,
) -> Profile:
    """Duration (s), level (dB of the root mean square), peak, zero crossings (1/s), spectral centroid (Hz).

    sounds: waveforms [samples] in -1..1; rate: samples per second.
    """
    if not len(sounds):
        raise DataError("there are no sounds to profile", next="give at least one")
    rows = np.array([_sound(np.asarray(each, dtype=np.float64), rate) for each in sounds])
    names = ("duration", "level", "peak", "zero crossings", "spectral centroid")
    columns: dict[str, Any] = dict(zip(names, rows.T, strict=True))
    if outputs is not None:
        columns["output"] = np.array([str(each) for each in np.asarray(outputs).tolist()])
    return profile_table(columns, keep=keep, seed=seed, start=start, modality="audio")


def _sound(wave: Array, rate: int) -> tuple[float, float, float, float, float]:
    if wave.ndim != 1 or not wave.size:
        raise DataError(
            "a sound must be [samples]", why=f"this one has shape {wave.shape}", next="mix its channels down"
        )
    power = np.abs(np.fft.rfft(wave)) ** 2
    total = power.sum()
    centroid = float((np.fft.rfftfreq(len(wave), 1 / rate) * power).sum() / total) if total else 0.0
    crossings = np.count_nonzero(np.diff(np.signbit(wave))) * rate / len(wave)
    level = 20 * np.log10(max(float(np.sqrt(np.mean(wave**2))), 1e-10))
    return len(wave) / rate, level, float(np.abs(wave).max()), crossings, centroid


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
