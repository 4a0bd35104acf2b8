"""Data of known distributions, and their profiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torchstone.drift.profile import Profile
from torchstone.drift.tables import profile_sounds, profile_table
from torchstone.drift.texts import profile_flat_texts
from torchstone.drift.vision import profile_images

CV = 0.8


def lengths(rows: int, rng: np.random.Generator, family: str = "lognormal", mean: float = 50.0) -> np.ndarray:
    """Whole lengths >= 1 of that mean whose coefficient of variation is CV."""
    if family == "lognormal":
        variance = np.log(1 + CV**2)
        drawn = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), rows)
    elif family == "gamma":
        drawn = rng.gamma(1 / CV**2, mean * CV**2, rows)
    else:
        drawn = rng.normal(mean, mean * CV, rows)
    return np.maximum(1, np.round(drawn)).astype(np.int64)


def texts(rows: int, rng: np.random.Generator, mean: float = 50.0, family: str = "lognormal") -> Profile:
    """Rows of Zipf-distributed ids with three classes; ids of one row cluster, as words of one text do."""
    sizes = lengths(rows, rng, family, mean)
    ids = rng.zipf(1.3, sizes.sum()) % 5000
    topic = np.repeat(rng.integers(0, 50, rows), sizes)
    ids = np.where(rng.random(len(ids)) < 0.2, topic, ids)
    return profile_flat_texts(ids, sizes, outputs=rng.integers(0, 3, rows), unknown_id=7)


def images(rows: int, rng: np.random.Generator) -> Profile:
    pictures = np.clip(rng.normal(0.5, 0.2, (rows, 3, 4, 4)) + rng.normal(0, 0.1, (rows, 1, 1, 1)), 0, 1)
    return profile_images(pictures, outputs=rng.integers(0, 10, rows))


def table(rows: int, rng: np.random.Generator) -> Profile:
    """Columns that depend on each other, one with gaps, one heavy-tailed, one of names."""
    shared = rng.normal(size=rows)
    gaps = np.where(rng.random(rows) < 0.1, np.nan, shared)
    columns = {
        "a": shared + rng.normal(size=rows),
        "b": shared,
        "gaps": gaps,
        "heavy": rng.standard_cauchy(rows),
        "name": np.array(["x", "y", "z"])[np.digitize(shared, [-1, 1])],
    }
    return profile_table(columns)


def sounds(rows: int, rng: np.random.Generator) -> Profile:
    waves = [rng.normal(0, 0.1, int(size)) for size in rng.integers(100, 200, rows)]
    return profile_sounds(waves, rate=8000)


KINDS: dict[str, Callable[[int, np.random.Generator], Profile]] = {
    "text": texts,
    "vision": images,
    "tabular": table,
    "audio": sounds,
}
