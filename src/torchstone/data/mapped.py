"""An array in a file goes to another process as its place, not as its bytes.

Where a loader's workers are spawned and not forked (macOS; since Python 3.14 Linux too), the dataset is
pickled for each of them; numpy would copy a whole corpus that only looks as if it were in memory.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where the bytes of an array lie."""

    path: Path
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]

    def array(self) -> np.ndarray[Any, Any]:
        return np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)


def place_of(array: Any) -> Any:
    """The place of an array that is the view of a file; anything else as it is."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return array
    if not isinstance(array.base, mmap.mmap) or not array.flags.c_contiguous:  # a slice of another array
        return array
    return Place(Path(array.filename), array.dtype, array.offset, array.shape)


def at_place(value: Any) -> Any:
    """The other way."""
    return value.array() if isinstance(value, Place) else value
