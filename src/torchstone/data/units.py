"""What one example of a text is: a row of a table; a file; in a few files, what stands between blank lines.

Units stream by with their measures. Of a long one only the head is kept, so memory does not grow with it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torchstone.data.rows import RowPart
from torchstone.data.source import Corpus

HEAD_CHARACTERS = 1 << 14
"""Of a text, kept for the preview and for the tokenizer."""
FEW_FILES = 10
_BLANK = re.compile(r"(?:\r?\n[ \t]*){2,}")
_SPACE = re.compile(r"\s+")
_DAMAGE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffd]")


@dataclass(frozen=True)
class Unit:
    """One example and its measures."""

    where: str
    head: str
    num_chars: int
    num_words: int
    is_damaged: bool
    exact: bytes
    normalized: bytes
    label: Any = None


class _Builder:
    """Puts a unit together from pieces."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.head = ""
        self.num_chars = self.num_words = 0
        self.is_damaged = False
        self._exact, self._normalized = hashlib.sha256(), hashlib.sha256()

    def add(self, text: str) -> None:
        if len(self.head) < HEAD_CHARACTERS:
            self.head += text[: HEAD_CHARACTERS - len(self.head)]
        self.num_chars += len(text)
        self.num_words += len(text.split())
        self.is_damaged = self.is_damaged or _DAMAGE.search(text) is not None
        self._exact.update(text.encode("utf-8", "surrogatepass"))
        plain = _SPACE.sub("", unicodedata.normalize("NFKC", text).casefold())
        self._normalized.update(plain.encode("utf-8", "surrogatepass"))

    def done(self, label: Any = None) -> Unit:
        return Unit(
            self.where,
            self.head,
            self.num_chars,
            self.num_words,
            self.is_damaged,
            self._exact.digest(),
            self._normalized.digest(),
            label,
        )


def unit_name(corpus: Corpus) -> str:
    parts = [*corpus.train, *corpus.val]
    if parts and all(isinstance(part, RowPart) for part in parts):
        return "row"
    return "file" if len(parts) >= FEW_FILES else "block"


def units_of(corpus: Corpus, side: str) -> Iterator[Unit]:
    kind = unit_name(corpus)
    if kind == "row":
        for part in corpus.files(side):
            assert isinstance(part, RowPart)
            for row in part.rows():
                builder = _Builder(row.where)
                builder.add(row.text)
                yield builder.done(row.label)
    elif kind == "file":
        yield from _files(corpus, side)
    else:
        yield from _blocks(corpus, side)


def _files(corpus: Corpus, side: str) -> Iterator[Unit]:
    builder: _Builder | None = None
    for document in corpus.documents(side):
        builder = builder or _Builder(document.name)
        builder.add(document.text)
        if document.ends:
            yield builder.done()
            builder = None


def _blocks(corpus: Corpus, side: str) -> Iterator[Unit]:
    """Between blank lines; a piece never ends at one, so a block goes on in the next piece."""
    number, builder = 1, None
    for document in corpus.documents(side):
        parts = _BLANK.split(document.text)
        for place, text in enumerate(parts):
            if place and builder is not None:
                yield builder.done()
                number, builder = number + 1, None
            if text:
                builder = builder or _Builder(f"{document.name}, block {number}")
                builder.add(text)
        if document.ends:
            if builder is not None:
                yield builder.done()
            number, builder = 1, None
