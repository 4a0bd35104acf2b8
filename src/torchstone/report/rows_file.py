"""Metric rows of runs as a file for other programs: CSV, JSON lines or Parquet.

One row per run, metric and step: `run_id`, `run`, `key`, `step`, `value`, `time` (ISO 8601, UTC). NaN and
infinities are written as `nan`, `inf` and `-inf` in CSV, as null in JSON, as themselves in Parquet.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torchstone import _files
from torchstone._errors import UsageError
from torchstone._optional import require
from torchstone.tracking.rows import RunRow
from torchstone.tracking.store import Store

COLUMNS = ("run_id", "run", "key", "step", "value", "time")
FORMATS = ("csv", "jsonl", "parquet")


def write_rows(store: Store, runs: Sequence[RunRow], path: Path, *, keys: Sequence[str] = ()) -> int:
    """Write the rows of `runs`, of all metrics or of `keys`; the ending of `path` is the format. How many."""
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise UsageError(
            f"no rows can be written as {path.suffix or path.name!r}",
            where=str(path),
            next=f"give a name that ends in {', '.join('.' + each for each in FORMATS)}",
        )
    rows = _rows(store, runs, keys)
    with _files.replacing(path) as partial:
        return {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[form](rows, partial)


def _rows(store: Store, runs: Sequence[RunRow], keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for run in runs:
        for key in keys or (None,):
            for row in store.metrics(run.run_id, key):
                yield run.run_id, run.name, row.key, row.step, row.value, _time(row.at)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _csv(rows: Iterator[tuple[Any, ...]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for run_id, run, key, step, value, time in rows:
            writer.writerow([_text(run_id), _text(run), _text(key), step, value, time])
            count += 1
    return count


def _text(name: str) -> str:
    """A name that a spreadsheet takes for text, whatever it begins with."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else name


def _jsonl(rows: Iterator[tuple[Any, ...]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            record = dict(zip(COLUMNS, row, strict=True))
            if not math.isfinite(record["value"]):
                record["value"] = None
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _parquet(rows: Iterator[tuple[Any, ...]], path: Path) -> int:
    pyarrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    types = [pyarrow.string()] * 3 + [pyarrow.int64(), pyarrow.float64(), pyarrow.string()]
    arrays = [pyarrow.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    parquet.write_table(pyarrow.table(arrays, names=list(COLUMNS)), path)
    return len(columns[0])
