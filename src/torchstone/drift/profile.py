"""A profile: a uniform sample of a data set's rows, as few numbers per row, and counts over all of it.

The sample decides (rows are what can be exchanged under the null hypothesis; tokens of one text are not),
the counts are shown. Profiles of parts of a stream merge into the profile of the whole: every row draws a
priority when it is seen, and the rows of lowest priority are kept (bottom-k sampling; Cohen and Kaplan 2007,
"Summarizing data using bottom-k sketches").
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from torchstone._errors import DataError
from torchstone._files import write_bytes

Array = npt.NDArray[Any]
Modality = Literal["text", "vision", "tabular", "audio"]
KEPT_ROWS = 100_000
"""Rows that a profile keeps unless told otherwise."""
FORMAT = "torchstone.drift-profile/1"


@dataclass(frozen=True)
class Profile:
    """What is known of one data set; made by `profile_texts`, `profile_images`, `profile_table`, ..."""

    modality: Modality
    rows_seen: int
    priority: Array
    """uint64 [rows kept]: the smaller, the longer kept."""
    numbers: Mapping[str, Array] = field(default_factory=dict)
    """name -> float64 [rows kept]; NaN where a row has no value."""
    categories: Mapping[str, Array] = field(default_factory=dict)
    """name -> int64 [rows kept]: places in the sorted names of `counts`."""
    vectors: Mapping[str, Array] = field(default_factory=dict)
    """name -> float32 [rows kept, width]."""
    counts: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    """name -> (sorted unique values, how often), over every row seen."""
    keep: int = KEPT_ROWS

    @property
    def rows_kept(self) -> int:
        return len(self.priority)

    def __post_init__(self) -> None:
        for name, column in self._columns():
            if len(column) != self.rows_kept:
                raise DataError(
                    f"the column {name!r} of a profile has {len(column)} rows, not {self.rows_kept}",
                    next="give every column one value per row",
                )

    def _columns(self) -> list[tuple[str, Array]]:
        return [*self.numbers.items(), *self.categories.items(), *self.vectors.items()]

    def merge(self, other: Profile) -> Profile:
        """The profile of both; they must hold the same columns."""
        mine, theirs = self._shape(), other._shape()
        if mine != theirs:
            raise DataError(
                "these profiles do not belong to one stream",
                why=f"one holds {mine}, the other {theirs}",
                next="profile both parts with the same call",
            )
        priority = np.concatenate([self.priority, other.priority])
        keep = min(self.keep, other.keep)
        chosen = np.sort(np.argsort(priority, kind="stable")[:keep])

        def both(of: str) -> dict[str, Array]:
            left, right = getattr(self, of), getattr(other, of)
            return {name: np.concatenate([left[name], right[name]])[chosen] for name in left}

        categories = {name: pooled_codes(self, other, name)[1][chosen] for name in self.categories}

        return Profile(
            modality=self.modality,
            rows_seen=self.rows_seen + other.rows_seen,
            priority=priority[chosen],
            numbers=both("numbers"),
            categories=categories,
            vectors=both("vectors"),
            counts={name: add_counts(self.counts[name], other.counts[name]) for name in self.counts},
            keep=keep,
        )

    def _shape(self) -> tuple[Any, ...]:
        widths = {name: column.shape[1] for name, column in self.vectors.items()}
        return self.modality, set(self.numbers), set(self.categories), widths, set(self.counts)

    def save(self, path: Path | str) -> None:
        """One `.npz` file without pickled objects."""
        buffer = io.BytesIO()
        self.write(buffer)
        write_bytes(Path(path), buffer.getvalue())

    def write(self, file: IO[bytes]) -> None:
        header = {
            "format": FORMAT,
            "modality": self.modality,
            "rows_seen": self.rows_seen,
            "keep": self.keep,
        }
        arrays: dict[str, Array] = {
            "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            "priority": self.priority,
        }
        for kind in ("numbers", "categories", "vectors"):
            arrays |= {f"{kind}/{name}": column for name, column in getattr(self, kind).items()}
        for name, (values, often) in self.counts.items():
            arrays |= {f"counts/{name}": often, f"values/{name}": values}
        np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        try:
            with Path(path).open("rb") as file:
                return load_profile(file, str(path))
        except FileNotFoundError:
            raise DataError(f"there is no profile {path}", next="torchstone drift --help") from None


def load_profile(file: IO[bytes], name: str) -> Profile:
    """What `Profile.write` wrote; `name` is for the error."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {each: archive[each] for each in archive.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise KeyError(header["format"])
    except Exception as error:
        raise DataError(
            f"{name} is not a profile of data",
            why=f"{type(error).__name__}: {error}",
            next="make one anew",
        ) from None

    def kind(of: str) -> dict[str, Array]:
        return {
            name.partition("/")[2]: column for name, column in arrays.items() if name.partition("/")[0] == of
        }

    values = kind("values")
    return Profile(
        modality=header["modality"],
        rows_seen=header["rows_seen"],
        priority=arrays["priority"],
        numbers=kind("numbers"),
        categories=kind("categories"),
        vectors=kind("vectors"),
        counts={name: (values[name], often) for name, often in kind("counts").items()},
        keep=header["keep"],
    )


def add_counts(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """Counts of both, by value."""
    values, where = np.unique(np.concatenate([left[0], right[0]]), return_inverse=True)
    often = np.bincount(where, weights=np.concatenate([left[1], right[1]]), minlength=len(values))
    return values, often.astype(np.int64)


def coded(values: Array) -> tuple[Array, tuple[Array, Array]]:
    """(place of each value among the sorted unique ones, (those, how often))."""
    names, codes, often = np.unique(values, return_inverse=True, return_counts=True)
    return codes, (names, often.astype(np.int64))


def code_outputs(outputs: Sequence[Any]) -> tuple[dict[str, Array], dict[str, tuple[Array, Array]]]:
    """Classes of rows as the category "output", by their names."""
    codes, counts = coded(np.array([str(each) for each in np.asarray(outputs).tolist()], dtype=str))
    return {"output": codes}, {"output": counts}


def pooled_codes(one: Profile, other: Profile, name: str) -> tuple[int, Array]:
    """(number of classes of either, codes of the rows of both)."""
    names = np.union1d(one.counts[name][0], other.counts[name][0])
    codes = [recoded(each.categories[name], each.counts[name][0], names) for each in (one, other)]
    return len(names), np.concatenate(codes)


def recoded(codes: Array, names: Array, among: Array) -> Array:
    """Codes into `names`, as codes into `among`, which holds them all."""
    return np.searchsorted(among, names)[codes]


def count(values: Array) -> tuple[Array, Array]:
    """(sorted unique values, how often)."""
    found, often = np.unique(values, return_counts=True)
    return found, often.astype(np.int64)


def draw_priorities(rows: int, seed: int, start: int = 0) -> Array:
    """One uint64 per row: the same for the same seed and place in the stream."""
    return np.random.Generator(np.random.PCG64([seed, start])).integers(
        0, np.iinfo(np.uint64).max, size=rows, dtype=np.uint64
    )


def choose_rows(priority: Array, keep: int) -> Array:
    """Indices of the rows that stay, in their own order."""
    if len(priority) <= keep:
        return np.arange(len(priority))
    return np.sort(np.argpartition(priority, keep)[:keep])
