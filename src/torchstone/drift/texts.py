"""The profile of texts, as rows of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from torchstone._errors import DataError
from torchstone.drift.profile import (
    KEPT_ROWS,
    Array,
    Profile,
    choose_rows,
    code_outputs,
    count,
    draw_priorities,
)

BUCKETS = 32
"""Groups of token ids whose share in each row is kept; few enough for the covariance of 100 rows."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio (Knuth, TAOCP 3, section 6.4): spreads neighbouring ids over the buckets."""


def profile_texts(
    rows: Iterable[Sequence[int] | Array],
    *,
    outputs: Sequence[Any] | None = None,
    unknown_id: int | None = None,
    byte_ids: Iterable[int] = (),
    pad_id: int | None = None,
    keep: int = KEPT_ROWS,
    seed: int = 0,
    start: int = 0,
) -> Profile:
    """Lengths, token counts, unknown and byte-fallback rates and classes of rows of ids.

    outputs: one class per row, labels or predictions. unknown_id: what a tokenizer writes for text that it
    does not know. byte_ids: its byte-fallback tokens. pad_id: ids that are no text and are not counted.
    start: rows of the stream before these, so that its parts merge.
    """
    arrays = [_ids(row) for row in rows]
    if pad_id is not None:
        arrays = [row[row != pad_id] for row in arrays]
    lengths = np.fromiter((len(row) for row in arrays), dtype=np.int64, count=len(arrays))
    flat = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
    return profile_flat_texts(
        flat,
        lengths,
        outputs=outputs,
        unknown_id=unknown_id,
        byte_ids=byte_ids,
        keep=keep,
        seed=seed,
        start=start,
    )


def profile_flat_texts(
    tokens: Array,
    lengths: Array,
    *,
    full_lengths: Array | None = None,
    outputs: Sequence[Any] | None = None,
    unknown_id: int | None = None,
    byte_ids: Iterable[int] = (),
    keep: int = KEPT_ROWS,
    seed: int = 0,
    start: int = 0,
) -> Profile:
    """As `profile_texts`, for rows that lie one after the other in `tokens` [sum of lengths].

    full_lengths: those of the texts, where the rows are only their beginnings.
    """
    if int(lengths.sum()) != len(tokens):
        raise DataError(
            f"{len(tokens)} tokens are not rows of {int(lengths.sum())} together", next="check lengths"
        )
    if outputs is not None and len(outputs) != len(lengths):
        raise DataError(
            f"{len(outputs)} outputs for {len(lengths)} rows", next="give one class per row, or none"
        )
    classes, output_counts = ({}, {}) if outputs is None else code_outputs(outputs)
    priority = draw_priorities(len(lengths), seed, start)
    kept = choose_rows(priority, keep)
    row_of, ids, kept_lengths = _rows(tokens, lengths, kept)
    sizes = np.maximum(kept_lengths, 1)
    shown = lengths if full_lengths is None else full_lengths
    numbers: dict[str, Array] = {"length": shown[kept].astype(np.float64)}
    if unknown_id is not None:
        numbers["unknown rate"] = np.bincount(row_of[ids == unknown_id], minlength=len(kept)) / sizes
    byte_list = np.fromiter(byte_ids, dtype=np.int64)
    if len(byte_list):
        is_byte = np.isin(ids, byte_list)
        numbers["byte-fallback rate"] = np.bincount(row_of[is_byte], minlength=len(kept)) / sizes
    cells = np.bincount(row_of * BUCKETS + _bucket(ids), minlength=len(kept) * BUCKETS)
    shares = cells.reshape(len(kept), BUCKETS) / sizes[:, None]
    return Profile(
        modality="text",
        rows_seen=len(lengths),
        priority=priority[kept],
        numbers=numbers,
        categories={name: codes[kept] for name, codes in classes.items()},
        vectors={"tokens": shares.astype(np.float32)},
        counts={"tokens": _count_ids(tokens), "length": count(shown), **output_counts},
        keep=keep,
    )


def _ids(row: Sequence[int] | Array) -> Array:
    array = np.asarray(row)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(
            "a row of token ids must be a flat sequence of whole numbers",
            why=f"this one has shape {array.shape} and type {array.dtype}",
            next="give one sequence of ids per row",
        )
    return array.astype(np.int64)


def _rows(tokens: Array, lengths: Array, kept: Array) -> tuple[Array, Array, Array]:
    """(place of the row among those kept, id) of every token of these rows, and their lengths."""
    if len(kept) == len(lengths):
        return np.repeat(np.arange(len(lengths)), lengths), tokens, lengths
    stays = np.zeros(len(lengths), dtype=bool)
    stays[kept] = True
    return np.repeat(np.arange(len(kept)), lengths[kept]), tokens[np.repeat(stays, lengths)], lengths[kept]


def _bucket(ids: Array) -> Array:
    return ((ids.astype(np.uint64) * _MULTIPLIER) >> np.uint64(64 - 5)).astype(np.int64)


def _count_ids(tokens: Array) -> tuple[Array, Array]:
    if not len(tokens) or tokens.min() < 0 or tokens.max() > 4 * len(tokens) + 1_000_000:
        return count(tokens)
    often = np.bincount(tokens)
    found = np.flatnonzero(often)
    return found, often[found]
