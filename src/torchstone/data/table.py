"""Files of rows: CSV, TSV and JSON lines, read one row at a time; Parquet is next door.

    table = open_table("reviews.csv", Path("reviews.csv"))
    for place, (text, stars) in table.read(("text", "stars")): ...   # place: "line 2"

A reader never holds more than a row (Parquet: a batch of rows). A row that is broken is an error which names
its file and its place; no row is ever skipped because it could not be read.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torchstone._errors import DataError
from torchstone._registry import Registry, suggest
from torchstone.data.files import wrong_encoding

LONGEST_FIELD = 1 << 30
"""Characters; the csv module of Python refuses more than 131,072 unless it is told."""
LOOKED_AT = 100
"""Rows of JSON lines whose keys are taken for the columns."""

Row = tuple[str, tuple[Any, ...]]
"""(place in the table, the values of the columns that were asked for)."""
Read = Callable[[Sequence[str]], Iterator[Row]]


@dataclass(frozen=True)
class Table:
    """Rows under named columns; reading it again gives the same rows."""

    name: str
    columns: dict[str, str]
    """Name of a column -> its type, in the words of the format."""
    read: Read
    identity: str
    """Changes when the content does."""
    split: str = ""
    """train or val, where the maker of the data has split it."""
    where: str = ""

    def require(self, column: str) -> str:
        """`column`, if the table has it and its values are plain."""
        kind = self.columns.get(column)
        inside = [name for name in self.columns if name.startswith(f"{column}.")]
        if kind is None and not inside:
            near = suggest(column, self.columns)
            raise DataError(
                f"there is no column {column!r}",
                where=self.where or self.name,
                why=f"the columns are {', '.join(self.columns) or 'none'}" + (f"; {near}" if near else ""),
                next="say which with --set data.text_column=NAME and data.label_column=NAME",
            )
        if inside or (kind or "").startswith(("list", "struct", "map", "large_list", "fixed_size_list")):
            raise DataError(
                f"the column {column!r} is nested",
                where=self.where or self.name,
                why=f"its type is {kind}" if kind else f"it holds {', '.join(inside)}",
                next=f"--set data.text_column={inside[0]}" if inside else "flatten it to one value per row",
            )
        return column


@dataclass(frozen=True)
class TableFormat:
    """A kind of file that holds rows."""

    name: str
    summary: str
    suffixes: tuple[str, ...]
    columns: Callable[[Path], dict[str, str]]
    rows: Callable[[Path, Sequence[str]], Iterator[Row]]


TABLE_FORMATS: Registry[TableFormat] = Registry("table format")


def format_of(path: Path) -> TableFormat | None:
    """The format that the suffix names; None: it is no table."""
    suffix = path.suffix.lower()
    return next((each for each in TABLE_FORMATS if suffix in each.suffixes), None)


def open_table(name: str, path: Path) -> Table:
    kind = format_of(path)
    assert kind is not None, path
    try:
        identity = _identity(path)
        columns = kind.columns(path)
    except OSError as problem:
        raise DataError(
            "the file cannot be read", where=str(path), why=problem.strerror or str(problem)
        ) from None
    return Table(name, columns, partial(kind.rows, path), identity, where=str(path))


def _identity(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- lines of UTF-8 --------------------------------------------------------------------------------


def lines_of(path: Path) -> Iterator[str]:
    """Lines with their ends; a byte that is no UTF-8 is an error with its offset."""
    offset = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                offset, line = 3, line[3:]
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as problem:
                raise wrong_encoding(path, offset + problem.start, problem, line=number) from None
            offset += len(line)


# --- CSV and TSV -----------------------------------------------------------------------------------


def _csv_reader(path: Path) -> Any:
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    return csv.reader(_Lines(path), delimiter=delimiter, strict=True)


class _Lines(io.TextIOBase):
    """What csv.reader iterates over; it counts lines itself."""

    def __init__(self, path: Path) -> None:
        self._lines = lines_of(path)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return self._lines


def _csv_header(reader: Any, path: Path) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as problem:
        raise _broken(path, f"line {reader.line_num}", str(problem)) from None
    if not any(header):
        raise DataError("the table is empty", where=str(path), why="it has no header line")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"two columns have the name {twice[0]!r}",
            where=f"{path}, line 1",
            why=f"the header is {', '.join(header)}",
            next="rename one of them",
        )
    return header


def _csv_columns(path: Path) -> dict[str, str]:
    return dict.fromkeys(_csv_header(_csv_reader(path), path), "text")


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    reader = _csv_reader(path)
    header = _csv_header(reader, path)
    places = [header.index(name) for name in columns]
    while True:
        try:
            row = next(reader, None)
        except csv.Error as problem:
            raise _broken(path, f"line {reader.line_num}", str(problem)) from None
        if row is None:
            return
        if not row:
            continue  # a blank line
        if len(row) != len(header):
            raise _broken(
                path,
                f"line {reader.line_num}",
                f"it has {len(row)} values and the header names {len(header)} columns",
            )
        yield f"line {reader.line_num}", tuple(row[place] for place in places)


# --- JSON lines ------------------------------------------------------------------------------------


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise _broken(path, f"line {number}", str(problem)) from None
        if not isinstance(value, dict):
            raise _broken(path, f"line {number}", f"it holds a {type(value).__name__}, not an object")
        yield number, value


def _json_columns(path: Path) -> dict[str, str]:
    columns: dict[str, str] = {}
    for count, (_, value) in enumerate(_objects(path)):
        if count == LOOKED_AT:
            break
        for name, each in _leaves(value):
            if columns.get(name, "null") == "null":
                columns[name] = _json_kind(each)
    if not columns:
        raise DataError("the table is empty", where=str(path), why="no line holds a value")
    return columns


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        if isinstance(each, dict):
            yield from _leaves(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", each


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "number"


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, value in _objects(path):
        yield f"line {number}", tuple(_value(value, name, path, f"line {number}") for name in columns)


def _value(row: dict[str, Any], name: str, path: Path, place: str) -> Any:
    return dotted(row, name, str(path), place) if name not in row else row[name]


def dotted(row: dict[str, Any], name: str, path: str, place: str) -> Any:
    """The value of a column inside another: "meta.title"."""
    value: Any = row
    for part in name.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or part not in value:
            raise DataError(
                f"a row has no {name!r}",
                where=f"{path}, {place}",
                why=f"it has {', '.join(row) or 'nothing'}",
                next="repair the row, or name another column with --set data.text_column=NAME",
            )
        value = value[part]
    return value


def _broken(path: Path, place: str, why: str) -> DataError:
    return DataError(
        "a row cannot be read", where=f"{path}, {place}", why=why, next="repair that line or leave it out"
    )


TABLE_FORMATS.add(
    TableFormat(
        "csv", "comma or tab between values, a header line", (".csv", ".tsv", ".tab"), _csv_columns, _csv_rows
    )
)
TABLE_FORMATS.add(
    TableFormat("jsonl", "one JSON object per line", (".jsonl", ".ndjson"), _json_columns, _json_rows)
)
