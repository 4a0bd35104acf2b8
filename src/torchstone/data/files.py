"""Text files by the piece: scanned once for encoding and hash, then streamed.

A piece ends behind a line break between two characters that are no white space or, on endless lines, before
a single space between words. A byte-level BPE never joins tokens across such a place, so the pieces of a text
tokenise exactly as the whole. Nothing here knows where files come from.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchstone._errors import DataError

READ_BYTES = 1 << 20
PIECE_CHARACTERS = 1 << 16
LONGEST_PIECE = 1 << 20
_LINE = re.compile(r"(?<=\S\n)(?=\S)")
_WORD = re.compile(r"(?<=\S)(?= \S)")


@dataclass(frozen=True)
class Document:
    """A text, or a piece of a long one; `ends` says whether the document is over after it."""

    name: str
    text: str
    ends: bool = True


@dataclass(frozen=True)
class TextFile:
    """Bytes `start` to `stop` of a file; `name` is its place in the corpus, the same on every machine."""

    name: str
    path: Path
    encoding: str
    sha256: str
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start

    def identity(self) -> list[Any]:
        """Changes with the name and the bytes."""
        return [self.name, self.sha256, self.start, self.stop]

    def documents(self) -> Iterator[Document]:
        """The text; a long one comes in pieces."""
        held: str | None = None
        for text in read_pieces(self):
            if held is not None:
                yield Document(self.name, held, ends=False)
            held = text
        if held is not None:
            yield Document(self.name, held)


def scan(found: Iterable[tuple[str, Path]], *, strict: bool) -> tuple[list[TextFile], int]:
    """Read every file once; empty ones are left out, undecodable ones are an error or are counted."""
    files: list[TextFile] = []
    num_skipped = 0
    for name, path in found:
        try:
            file = _scan_one(name, path)
        except DataError:
            if strict:
                raise
            num_skipped += 1
            continue
        if file.num_bytes:
            files.append(file)
    return files, num_skipped


def read_pieces(file: TextFile) -> Iterator[str]:
    """The text in pieces of some 64 thousand characters; memory does not grow with the file."""
    waiting = ""
    for text in _decoded(file):
        waiting += text
        start = 0
        while (cut := _cut(waiting, start)) is not None:
            yield waiting[start:cut]
            start = cut
        waiting = waiting[start:]
    if waiting:
        yield waiting


def _cut(text: str, start: int) -> int | None:
    """Where the piece that begins at `start` ends; None: more text is needed to tell."""
    if len(text) - start <= PIECE_CHARACTERS:
        return None
    line = _LINE.search(text, start + PIECE_CHARACTERS)
    if line is not None:
        return line.start()
    if len(text) - start <= LONGEST_PIECE:
        return None
    word = _WORD.search(text, start + PIECE_CHARACTERS)
    # A million characters without a space are no prose; then a token may be cut, never a character.
    return word.start() if word is not None else start + LONGEST_PIECE


def split_in_two(file: TextFile, num_bytes: int) -> tuple[TextFile, TextFile]:
    """Cut behind the last whole line of the first `num_bytes` (or character, where there is no line)."""
    with file.path.open("rb") as stream:
        stream.seek(file.start)
        head = stream.read(num_bytes + 1)
    cut = head.rfind(b"\n", 0, num_bytes) + 1
    if not cut:
        cut = min(num_bytes, len(head))
        while 0 < cut < len(head) and head[cut] & 0xC0 == 0x80:  # inside a character of UTF-8
            cut -= 1
    middle = file.start + cut
    return replace(file, stop=middle), replace(file, start=middle)


def _scan_one(name: str, path: Path) -> TextFile:
    digest = hashlib.sha256()
    num_bytes = 0
    try:
        encoding = _encoding(path)
        decoder = codecs.getincrementaldecoder(encoding)("strict")
        with path.open("rb") as stream:
            while chunk := stream.read(READ_BYTES):
                digest.update(chunk)
                num_bytes += len(chunk)
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except OSError as problem:
        raise DataError(
            "the file cannot be read", where=str(path), why=problem.strerror or str(problem)
        ) from None
    except UnicodeDecodeError as problem:
        # The error counts from what the decoder had in hand, which ends where we have read to.
        raise wrong_encoding(path, num_bytes - len(problem.object) + problem.start, problem) from None
    except (SyntaxError, LookupError) as problem:
        raise DataError(
            "the file is not text in the encoding it should have",
            where=str(path),
            why=str(problem),
            next=f"convert it, e.g. iconv -f latin1 -t utf-8 {path.name}; or leave it out with a glob",
        ) from None
    start = 3 if encoding == "utf-8" and _has_mark(path) else 0
    return TextFile(name, path, encoding, digest.hexdigest(), start, num_bytes)


def wrong_encoding(path: Path, offset: int, problem: Exception, line: int | None = None) -> DataError:
    """`offset`: the byte of the file where the encoding breaks."""
    with path.open("rb") as stream:
        mark = stream.read(2)
    wide = mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    reason = getattr(problem, "reason", str(problem))
    return DataError(
        "the file is not text in the encoding it should have",
        where=f"{path}, byte {offset}" + (f" (line {line})" if line else ""),
        why=f"{reason}; it begins with the mark of UTF-16" if wide else reason,
        next=f"convert it, e.g. iconv -f {'utf-16' if wide else 'latin1'} -t utf-8 {path.name}; "
        "or leave it out with a glob",
    )


def _encoding(path: Path) -> str:
    """UTF-8, except that Python sources may declare another (PEP 263)."""
    if path.suffix != ".py":
        return "utf-8"
    with path.open("rb") as stream:
        declared, _ = tokenize.detect_encoding(stream.readline)
    return "utf-8" if declared == "utf-8-sig" else declared


def _has_mark(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(3) == codecs.BOM_UTF8


def _decoded(file: TextFile) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(file.encoding)("strict")
    left = file.num_bytes
    with file.path.open("rb") as stream:
        stream.seek(file.start)
        while left > 0 and (chunk := stream.read(min(READ_BYTES, left))):
            left -= len(chunk)
            yield decoder.decode(chunk, final=left <= 0)
    if left > 0:
        raise DataError(
            "the file became shorter while it was in use",
            where=str(file.path),
            why=f"{left} bytes are missing",
        )
