"""Parquet files as tables, a batch of rows at a time (pyarrow, which the extra [data] brings).

A column inside a struct is named with dots: "meta.title".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.table import TABLE_FORMATS, Row, TableFormat, dotted

BATCH_ROWS = 1024


def _open(path: Path) -> Any:
    parquet = require("pyarrow.parquet", "data")
    errors = require("pyarrow", "data").lib.ArrowException
    try:
        return parquet.ParquetFile(path)
    except (errors, ValueError) as problem:
        raise DataError(
            "this is no Parquet file", where=str(path), why=str(problem).splitlines()[0][:200]
        ) from None


def leaf_types(schema: Any) -> dict[str, str]:
    """Dotted name -> type of every column of an Arrow schema; structs are opened, lists are not."""
    types = require("pyarrow", "data").types
    found: dict[str, str] = {}

    def walk(fields: Any, prefix: str) -> None:
        for field in fields:
            if types.is_struct(field.type):
                walk(field.type, f"{prefix}{field.name}.")
            else:
                found[prefix + field.name] = str(field.type)

    walk(schema, "")
    return found


def _columns(path: Path) -> dict[str, str]:
    with _open(path) as file:
        return leaf_types(file.schema_arrow)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    arrow = require("pyarrow", "data").lib.ArrowException
    number = 0
    with _open(path) as file:
        batches = file.iter_batches(BATCH_ROWS, columns=list(columns))
        while True:
            try:
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            except (arrow, UnicodeDecodeError, OSError) as problem:
                raise DataError(
                    "the rows cannot be read",
                    where=f"{path}, behind row {number}",
                    why=str(problem).splitlines()[0][:200],
                ) from None
            if batch is None:
                return
            for row in rows:
                number += 1
                place = f"row {number}"
                yield (
                    place,
                    tuple(row[c] if c in row else dotted(row, c, str(path), place) for c in columns),
                )


TABLE_FORMATS.add(
    TableFormat("parquet", "columns in batches (pyarrow)", (".parquet", ".pq"), _columns, _rows)
)
