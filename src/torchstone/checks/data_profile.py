"""A source of data, as the profile that drift is judged by.

    profile_source("reviews.csv", DataConfig(), task="classification", rows=10_000)

A profile that was saved before stands for its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchstone._errors import DataError, UsageError
from torchstone.data.config import DataConfig
from torchstone.data.labelled import IMAGE_TASKS, TEXT_TASKS, read_labelled
from torchstone.data.overview import BLOCK_TOKENS, guess_task
from torchstone.data.quality import Reservoir, sample_indices
from torchstone.data.source import find_tables, read_source
from torchstone.data.task import TaskSpec
from torchstone.data.token_file import is_token_file, open_split
from torchstone.data.units import Unit, units_of
from torchstone.drift.profile import Profile
from torchstone.drift.tables import profile_table
from torchstone.drift.texts import profile_flat_texts
from torchstone.drift.vision import profile_images

TABULAR = "tabular"
"""A task of this command alone: every column of a table is a feature."""
PROFILE_SUFFIX = ".npz"
UNKNOWN = ("<unk>", "[UNK]")


def profile_source(
    name: str,
    config: DataConfig,
    *,
    task: str | None = None,
    tokenizer: Any = None,
    rows: int = 10_000,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> Profile:
    """`rows` at most are drawn, without replacement. Texts become ids by `tokenizer`, else their bytes."""
    if Path(name).suffix == PROFILE_SUFFIX and Path(name).expanduser().is_file():
        return Profile.load(Path(name).expanduser())
    if task == TABULAR:
        return _table(name, rows, seed)
    spec = TaskSpec.from_name(task or guess_task(name))
    if spec.kind in IMAGE_TASKS:
        return _images(name, config, spec, rows, seed)
    if is_token_file(name):
        return _ids(name, config, rows, seed)
    corpus = read_source(name, config, cache_dir=cache_dir, labelled=spec.kind in TEXT_TASKS)
    drawn = Reservoir(rows, seed)
    seen = 0
    for side in ("train", "val"):
        for unit in units_of(corpus, side):
            seen += 1
            drawn.offer(lambda unit=unit: unit)  # type: ignore[misc]
    units: list[Unit] = drawn.in_order()
    labelled = spec.kind == "classification"
    return replace(_texts(units, tokenizer, labelled, rows, seed), rows_seen=seen)


def _texts(units: Sequence[Unit], tokenizer: Any, labelled: bool, rows: int, seed: int) -> Profile:
    from torchstone.data.byte_tokenizer import ByteTokenizer

    tokenizer = tokenizer or ByteTokenizer()
    found = [np.asarray(ids, dtype=np.int64) for ids in tokenizer.encode_batch([unit.head for unit in units])]
    lengths = np.array([len(ids) for ids in found], dtype=np.int64)
    # Of a long text only the head is held; its length in tokens is as much longer as it has more characters.
    stretch = np.array([unit.num_chars / max(1, len(unit.head)) for unit in units])
    return profile_flat_texts(
        np.concatenate([np.empty(0, dtype=np.int64), *found]),
        lengths,
        full_lengths=np.round(lengths * stretch),
        outputs=[unit.label for unit in units] if labelled else None,
        unknown_id=_unknown_id(tokenizer),
        keep=rows,
        seed=seed,
    )


def _unknown_id(tokenizer: Any) -> int | None:
    specials: dict[str, int] = getattr(tokenizer, "special_tokens", dict)()
    return next((specials[name] for name in UNKNOWN if name in specials), None)


def _images(name: str, config: DataConfig, task: TaskSpec, rows: int, seed: int) -> Profile:
    from torchstone.data.dataset import to_example

    data = read_labelled(name, config, task)
    sides = [side for side in (data.train, data.val) if side is not None]
    places = [(side, index) for side in sides for index in range(len(side))]
    chosen = [places[index] for index in sample_indices(len(places), rows, seed)]
    examples = [to_example(side[index], index, None) for side, index in chosen]
    made = profile_images(
        [each["pixel_values"].numpy() for each in examples],
        outputs=[int(each["labels"]) for each in examples] if "labels" in examples[0] else None,
        keep=rows,
        seed=seed,
    )
    return replace(made, rows_seen=len(places))


def _ids(name: str, config: DataConfig, rows: int, seed: int) -> Profile:
    """Blocks of equal length, so only tokens can drift."""
    sides = [
        side for side in open_split(name, config.token_dtype, config.validation_split) if side is not None
    ]
    blocks = [(side, start) for side in sides for start in range(0, len(side), BLOCK_TOKENS)]
    chosen = [blocks[index] for index in sample_indices(len(blocks), rows, seed)]
    found = [np.asarray(side[start : start + BLOCK_TOKENS]).astype(np.int64) for side, start in chosen]
    lengths = np.array([len(each) for each in found], dtype=np.int64)
    made = profile_flat_texts(np.concatenate(found), lengths, keep=rows, seed=seed)
    return replace(made, rows_seen=len(blocks))


def _table(name: str, rows: int, seed: int) -> Profile:
    tables = find_tables(name)
    if not tables:
        raise UsageError(
            f"{name} is no table",
            why="--task tabular takes CSV, TSV, JSON lines or Parquet",
            next="leave it out",
        )
    columns = list(tables[0].columns)
    drawn = Reservoir(rows, seed)
    seen = 0
    for table in tables:
        if list(table.columns) != columns:
            raise DataError(
                f"{table.name} has other columns than {tables[0].name}",
                next="name files of one kind with a glob",
            )
        for _, values in table.read(columns):
            seen += 1
            drawn.offer(lambda values=values: values)  # type: ignore[misc]
    held = list(zip(*drawn.in_order(), strict=True))
    made = profile_table(
        {column: _column(values) for column, values in zip(columns, held, strict=True)}, keep=rows, seed=seed
    )
    return replace(made, rows_seen=seen)


def _column(values: Iterable[Any]) -> list[Any]:
    """Numbers where every value is one or absent; a CSV knows only strings."""
    held = list(values)
    try:
        return [None if each in (None, "") else float(each) for each in held]
    except (TypeError, ValueError):
        return [str(each) for each in held]
