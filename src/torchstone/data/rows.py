"""Rows of tables as texts, with or without a label: chosen, split and counted, then streamed.

Which side a row stands on depends on its text and the seed alone, so two rows with one text are never on
both sides. Memory does not grow with the rows; with data.deduplicate it holds eight bytes of hash (some 60
in Python) for each distinct text.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torchstone._errors import DataError
from torchstone.data.config import DataConfig
from torchstone.data.files import Document
from torchstone.data.table import Table

TEXT_COLUMNS = ("text", "content", "sentence", "document")
LABEL_COLUMNS = ("label", "labels", "label_ids")
PLAIN_TYPES = ("text", "string", "large_string", "string_view")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class LabelledText:
    """One row: its text, its label as the table has it, and where it stands."""

    text: str
    label: Any
    where: str


@dataclass(frozen=True)
class Selection:
    """Which rows are used, and on which side they stand."""

    seed: int
    share: float
    """Of the rows held out."""
    min_chars: int = 0
    deduplicate: str = "none"
    max_bytes: int | None = None
    below: float | None = None
    """Rows whose draw is below it are held out; None: `share` decides."""
    chance: float = 1.0
    """Share of the rows that max_bytes leaves, chosen by lot."""

    def walk(
        self, tables: Sequence[Table], columns: Sequence[str], dropped: Counter[str] | None = None
    ) -> Iterator[tuple[str, LabelledText]]:
        """(side, row) of all rows that are used; `dropped` hears how many were not, and why."""
        seen: set[bytes] = set()
        lost = Counter[str]() if dropped is None else dropped
        left = self.max_bytes
        for table in sorted(tables, key=lambda each: each.split != "val"):  # a copy is dropped from train
            for place, values in table.read(columns):
                where = f"{table.where or table.name}, {place}"
                text = _text(values[0], columns[0], where)
                reason = self._reason(text, seen)
                if reason is None and self.chance < 1.0:
                    size = len(text.encode())
                    late = left is not None and size > left
                    if late or draw("order", self.seed, f"{table.name}/{place}") >= self.chance:
                        reason = "beyond data.max_bytes"
                    elif left is not None:
                        left -= size
                if reason is not None:
                    lost[reason] += 1
                    continue
                label = values[1] if len(values) > 1 else None
                yield table.split or self._side(text), LabelledText(text, label, where)

    def _reason(self, text: str, seen: set[bytes]) -> str | None:
        if not text:
            return "empty"
        if len(text) < self.min_chars:
            return "shorter than data.min_chars"
        if self.deduplicate != "none":
            digest = text_digest(text, self.deduplicate)
            if digest in seen:
                return "duplicate"
            seen.add(digest)
        return None

    def _side(self, text: str) -> str:
        limit = self.share if self.below is None else self.below
        return "val" if draw("split", self.seed, text) < limit else "train"


@dataclass(frozen=True)
class RowPart:
    """The rows of one side, as a part of a corpus."""

    name: str
    tables: tuple[Table, ...]
    columns: tuple[str, ...]
    selection: Selection
    side: str
    num_bytes: int
    num_rows: int
    content: str
    """Hash of what the rows are."""

    def identity(self) -> list[Any]:
        return [self.name, self.content, self.side, *self.columns]

    def documents(self) -> Iterator[Document]:
        for row in self.rows():
            yield Document(row.where, row.text)

    def rows(self) -> Iterator[LabelledText]:
        num_rows = num_bytes = 0
        for side, row in self.selection.walk(self.tables, self.columns):
            if side == self.side:
                num_rows += 1
                num_bytes += len(row.text.encode())
                yield row
        if (num_rows, num_bytes) != (self.num_rows, self.num_bytes):
            raise DataError(
                "the table changed while it was in use",
                where=self.name,
                why=f"it had {self.num_rows:,} rows for {self.side} and now has {num_rows:,}",
                next="repeat the command when nothing writes to it",
            )


@dataclass
class Sides:
    """What the first pass found."""

    train: RowPart | None = None
    val: RowPart | None = None
    dropped: Counter[str] = field(default_factory=Counter)


def read_rows(name: str, tables: Sequence[Table], config: DataConfig, *, labelled: bool) -> Sides:
    """Every row is read once here, so what is broken is an error before anything else happens."""
    columns = choose_columns(tables, config, labelled=labelled)
    choice = Selection(
        config.split_seed, config.validation_split, config.min_chars, config.deduplicate, config.max_bytes
    )
    found = _survey(tables, columns, choice)
    if config.max_bytes is not None and found.num_bytes > config.max_bytes:
        choice = replace(choice, chance=config.max_bytes / found.num_bytes)
        found = _survey(tables, columns, choice)
        if not found.rows:
            raise DataError(
                f"data.max_bytes={config.max_bytes} leaves no row",
                where=name,
                next="--set data.max_bytes with a larger number",
            )
    sides = Sides(dropped=found.dropped)
    if not found.rows:
        why = ", ".join(f"{count:,} {reason}" for reason, count in found.dropped.items())
        raise DataError("there is no text to read", where=name, why=why or "the table has no rows")
    if any(table.split for table in tables):
        below = None
    else:
        below = threshold(found.draws, config.validation_split)
        choice = replace(choice, below=below)
    counts = (
        _survey(tables, columns, choice) if below is not None and below != config.validation_split else found
    )
    for side in ("train", "val"):
        if counts.rows[side]:
            part = RowPart(
                f"{name}:{columns[0]}",
                tuple(tables),
                columns,
                choice,
                side,
                counts.bytes[side],
                counts.rows[side],
                counts.hashes[side].hexdigest(),
            )
            setattr(sides, side, part)
    if sides.train is None:
        raise DataError("no row is left for training", where=name, why="all of them are held out")
    return sides


class _Survey:
    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.hashes = {"train": hashlib.sha256(), "val": hashlib.sha256()}
        self.dropped: Counter[str] = Counter()
        self.draws = (2.0, -1.0)
        """The lowest and the highest draw of a row."""

    @property
    def num_bytes(self) -> int:
        return self.bytes.total()


def _survey(tables: Sequence[Table], columns: Sequence[str], choice: Selection) -> _Survey:
    found = _Survey()
    low, high = found.draws
    for side, row in choice.walk(tables, columns, found.dropped):
        data = row.text.encode()
        found.rows[side] += 1
        found.bytes[side] += len(data)
        found.hashes[side].update(hashlib.sha256(data).digest())
        found.hashes[side].update(json.dumps(row.label, default=str).encode())
        drawn = draw("split", choice.seed, row.text)
        low, high = min(low, drawn), max(high, drawn)
    found.draws = (low, high)
    return found


def threshold(draws: tuple[float, float], share: float) -> float:
    """`share`, moved so that both sides get a row wherever there are two texts."""
    low, high = draws
    if share == 0.0 or low == high:
        return 0.0
    if low >= share:
        return min(high, low + 2.0**-52)
    return min(share, high)


def choose_columns(tables: Sequence[Table], config: DataConfig, *, labelled: bool) -> tuple[str, ...]:
    """The text column, and the column of labels where one is needed; every table must have them."""
    first = tables[0]
    text = config.text_column or _guess_text(first, config.label_column)
    chosen = [text]
    if labelled:
        chosen.append(config.label_column or _guess_label(first))
    for table in tables:
        for column in chosen:
            table.require(column)
    return tuple(chosen)


def _guess_text(table: Table, label: str | None) -> str:
    known = [name for name in TEXT_COLUMNS if name in table.columns]
    if known:
        return known[0]
    texts = [
        name
        for name, kind in table.columns.items()
        if kind in PLAIN_TYPES and name not in (label, *LABEL_COLUMNS)
    ]
    if len(texts) == 1:
        return texts[0]
    raise DataError(
        "which column is the text?",
        where=table.where or table.name,
        why=f"the columns are {', '.join(table.columns)}",
        next="--set data.text_column=NAME",
    )


def _guess_label(table: Table) -> str:
    known = [name for name in LABEL_COLUMNS if name in table.columns]
    if known:
        return known[0]
    raise DataError(
        "which column is the label?",
        where=table.where or table.name,
        why=f"the columns are {', '.join(table.columns)}",
        next="--set data.label_column=NAME",
    )


def _text(value: Any, column: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"the column {column!r} holds no text",
            where=where,
            why=f"got {type(value).__name__}: {str(value)[:40]}",
            next="--set data.text_column=NAME for the column that does",
        )
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise DataError(
            f"the column {column!r} holds half a character",
            where=where,
            why=f"{value[problem.start]!a} is one of a pair, and the other is missing",
            next="repair that row or leave it out",
        ) from None
    return value


def text_digest(text: str, how: str) -> bytes:
    """Eight bytes that two texts share if they are equal, or equal but for case, spaces and Unicode forms."""
    if how == "normalized":
        return bytes.fromhex(normalized_digest([text]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]


def normalized_digest(pieces: Iterable[str]) -> str:
    """Of a text that may come in pieces; spaces count for nothing."""
    digest = hashlib.sha256()
    for piece in pieces:
        plain = _SPACE.sub("", unicodedata.normalize("NFKC", piece).casefold())
        digest.update(plain.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def draw(purpose: str, seed: int, text: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(json.dumps([purpose, seed, text]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def told(dropped: Mapping[str, int]) -> list[str]:
    """What was left out, for the notes of a run."""
    return [f"left out: {count:,} {reason}" for reason, count in dropped.items() if count]
