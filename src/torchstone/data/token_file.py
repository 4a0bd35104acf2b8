"""Token ids that are there already: an array, or a file of them, as blocks for a language model.

    blocks_of_array(np.memmap("train.bin", np.uint16), sequence_length=1024)
    open_tokens(Path("train.bin"), "uint16")                      # a memory map; nothing is read yet

`.npy` says its own type; `.bin` is the ids one after the other, uint16 unless said otherwise (the form of
nanoGPT). Ids are held to the vocabulary when a batch is made, not before: a file may be large.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from torchstone._errors import ConfigError, DataError
from torchstone.data.pack import TokenBlocks

SUFFIXES = (".bin", ".npy")
PROBES = 64
PROBE_TOKENS = 1024

Tokens = np.ndarray[Any, Any]


def is_token_file(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES or _halves(name) is not None


def open_split(name: str, dtype: str | None, validation_split: float) -> tuple[Tokens, Tokens | None]:
    """Training and validation ids: a folder with train.bin and val.bin, or one file and its tail."""
    halves = _halves(name)
    if halves is not None:
        train, val = halves
        return open_tokens(train, dtype), open_tokens(val, dtype) if val.is_file() else None
    tokens = open_tokens(Path(name), dtype)
    held_out = round(len(tokens) * validation_split)
    # A held-out part needs a token and its next one; a shorter one is no part.
    if held_out < 2:
        return tokens, None
    return tokens[:-held_out], tokens[-held_out:]


def _halves(name: str) -> tuple[Path, Path] | None:
    folder = Path(name).expanduser()
    for suffix in SUFFIXES:
        train = folder / f"train{suffix}"
        if train.is_file():
            return train, folder / f"val{suffix}"
    return None


def open_tokens(path: Path, dtype: str | None = None) -> Tokens:
    """A flat memory map of the ids in `path`; `dtype` (uint16, uint32) is for .bin files only."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError("there is no such file of tokens", where=str(path))
    if path.suffix.lower() == ".npy":
        if dtype is not None:
            raise ConfigError(
                "data.token_dtype has no effect on a .npy file", why="it says itself what it holds"
            )
        return require_ids(_load_npy(path), str(path))
    kind = np.dtype(dtype or "uint16")
    num_bytes = path.stat().st_size
    if num_bytes == 0 or num_bytes % kind.itemsize:
        raise DataError(
            "this is no file of token ids",
            where=str(path),
            why=f"{num_bytes} bytes are no whole number of {kind.name}" if num_bytes else "the file is empty",
            next="write it with numpy.ndarray.tofile, and say --set data.token_dtype=uint32 for wide ids",
        )
    return np.memmap(path, dtype=kind, mode="r")


def require_ids(tokens: Tokens, where: str = "") -> Tokens:
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(
            "this array holds no stream of token ids",
            where=where,
            why=f"shape {tokens.shape}, {tokens.dtype}; expected one dimension of whole numbers",
            next="give a flat array of ids, or a dataset of examples",
        )
    return tokens


def blocks_of_array(tokens: Tokens, sequence_length: int) -> TokenBlocks:
    """`tokens` cut into examples of `sequence_length`; the rest behind the last whole one is left out."""
    return TokenBlocks(require_ids(tokens), sequence_length, fingerprint=fingerprint(tokens))


def fingerprint(tokens: Tokens) -> str:
    """Of length, type and evenly spread samples: a change in the middle of a large file may go unseen."""
    digest = hashlib.sha256(f"{tokens.dtype.str}/{len(tokens)}".encode())
    for start in np.linspace(0, max(0, len(tokens) - PROBE_TOKENS), PROBES).astype(int):
        digest.update(np.ascontiguousarray(tokens[start : start + PROBE_TOKENS]).tobytes())
    return f"tokens/{digest.hexdigest()[:24]}"


def _load_npy(path: Path) -> Tokens:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as problem:
        raise DataError("this is no .npy file of numbers", where=str(path), why=str(problem)) from None
