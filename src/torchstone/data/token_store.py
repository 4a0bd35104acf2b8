"""A cached stream of tokens on disk: written in whole parts, continued after a kill, proven before use.

    KEY.npy          the ids            KEY.ends.npy   where each document is over (the place behind it)
    KEY.json         the record, written last: hashes and sizes; without it the stream is not there
    KEY.*.partial    an encode that has not ended; KEY.journal says which of its parts are whole

A part counts once its bytes are flushed and its line stands in the journal. What a kill left behind that is
cut off; the next encode goes on behind the last whole part. Meaning of ids and documents is not known here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchstone import _files
from torchstone._errors import DataError, disk_trouble
from torchstone.data.encoding import Chunk

log = logging.getLogger(__name__)

SCHEMA = "torchstone.tokens/2"
PART_BYTES = 16 << 20
"""Text per part: at most so much is encoded again after a kill."""
END_DTYPE = np.dtype("<i8")
_HEADER_BYTES = 128


@dataclass(frozen=True)
class Done:
    """What the parts up to here hold together."""

    pieces: int = 0
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0


@dataclass(frozen=True)
class StoredTokens:
    """A whole stream, mapped into memory."""

    ids: np.ndarray[Any, Any]
    ends: np.ndarray[Any, Any]
    num_text_bytes: int


def open_stored(path: Path) -> StoredTokens | None:
    """The stream at `path` (KEY.npy), if it is whole and what was written; None: make it (again)."""
    record_path = path.with_suffix(".json")
    if not record_path.exists():
        return None
    try:
        record = _files.read_json(record_path)
        for file in (path, ends_path(path)):
            if _files.sha256(file) != record["sha256"][file.name]:
                raise DataError(f"the content of {file.name} is not what was written")
        num_text_bytes = int(record["num_text_bytes"])
        ids = np.load(path, mmap_mode="r")
        # numpy cannot map an empty array; a stream with no document end has one here.
        ends = np.load(ends_path(path), mmap_mode="r" if record["num_documents"] else None)
        return StoredTokens(ids, ends, num_text_bytes)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        log.warning("the cached tokens %s are damaged and will be made again: %s", path, problem)
        return None


def ends_path(path: Path) -> Path:
    return path.with_suffix(".ends.npy")


class TokenWriter:
    """Parts of one stream, from where the last writer was stopped."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path, dtype
        self._ids_path = path.with_name(f"{path.name}.partial")
        self._ends_path = path.with_name(f"{ends_path(path).name}.partial")
        self._journal_path = path.with_suffix(".journal")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = self._whole_parts()
        """What is there already; `write` goes on behind it."""
        if not self.done.pieces:
            self.discard()

    def write(self, chunks: Iterable[Chunk]) -> Iterator[Done]:
        """Append `chunks`, part by part; yields after each chunk how far it is."""
        with (
            _at(self._ids_path, self._ids_size(self.done)) as ids_file,
            _at(self._ends_path, self._ends_size(self.done)) as ends_file,
            self._journal_path.open("ab") as journal,
        ):
            now, part = self.done, _Part()
            for chunk in chunks:
                ids = chunk.ids.astype(self.dtype.newbyteorder("<"), copy=False)
                ends = (chunk.ends + now.tokens).astype(END_DTYPE, copy=False)
                part.add(_write(ids_file, ids), _write(ends_file, ends))
                now = Done(
                    now.pieces + chunk.num_pieces,
                    now.tokens + len(ids),
                    now.documents + len(ends),
                    now.text_bytes + chunk.num_text_bytes,
                )
                if now.text_bytes - self.done.text_bytes >= PART_BYTES:
                    self._close_part(ids_file, ends_file, journal, now, part)
                    part = _Part()
                yield now
            if now != self.done:
                self._close_part(ids_file, ends_file, journal, now, part)

    def finish(self) -> None:
        """Give the whole stream its name."""
        hashes = {}
        for partial, path, dtype, length in (
            (self._ends_path, ends_path(self.path), END_DTYPE, self.done.documents),
            (self._ids_path, self.path, self.dtype, self.done.tokens),
        ):
            with partial.open("r+b") as stream:
                stream.write(_header(dtype, length))
                stream.flush()
                os.fsync(stream.fileno())
            hashes[path.name] = _files.sha256(partial)
            partial.replace(path)
        _files.flush(self.path.parent)
        record = {
            "schema": SCHEMA,
            "sha256": hashes,
            "num_tokens": self.done.tokens,
            "num_documents": self.done.documents,
            "num_text_bytes": self.done.text_bytes,
        }
        _files.write_json(self.path.with_suffix(".json"), record)
        self._journal_path.unlink()

    def cut(self) -> None:
        """Take away what belongs to no whole part, and all of it where no part is whole."""
        if not self.done.pieces:
            self.discard()
            return
        for path, size in (
            (self._ids_path, self._ids_size(self.done)),
            (self._ends_path, self._ends_size(self.done)),
        ):
            with suppress(FileNotFoundError):  # it had its name already
                os.truncate(path, size)

    def discard(self) -> None:
        for path in (self._journal_path, self._ids_path, self._ends_path):
            path.unlink(missing_ok=True)
        self.done = Done()

    def _close_part(
        self, ids_file: BinaryIO, ends_file: BinaryIO, journal: BinaryIO, now: Done, part: _Part
    ) -> None:
        for stream in (ids_file, ends_file):
            stream.flush()
            os.fsync(stream.fileno())
        line = {**asdict(now), "dtype": self.dtype.name, "sha256": part.hexdigests()}
        journal.write(json.dumps(line).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())
        self.done = now

    def _whole_parts(self) -> Done:
        """The parts that the journal knows and whose content is still what it was."""
        done, length = Done(), 0
        try:
            lines = self._journal_path.read_bytes().splitlines(keepends=True)
            with self._ids_path.open("rb") as ids_file, self._ends_path.open("rb") as ends_file:
                ids_file.seek(_HEADER_BYTES)
                ends_file.seek(_HEADER_BYTES)
                for line in lines:
                    record = json.loads(line)
                    now = Done(*(int(record[name]) for name in asdict(done)))
                    part = _Part()
                    part.add(
                        ids_file.read(self._ids_size(now) - self._ids_size(done)),
                        ends_file.read(self._ends_size(now) - self._ends_size(done)),
                    )
                    if part.hexdigests() != record["sha256"] or record["dtype"] != self.dtype.name:
                        break
                    done, length = now, length + len(line)
            os.truncate(self._journal_path, length)
        except FileNotFoundError:
            return done
        except (ValueError, KeyError, TypeError):  # the last line was never ended
            os.truncate(self._journal_path, length)
        if done.pieces:
            log.info("%s: going on behind %d tokens of an earlier encode", self.path.name, done.tokens)
        return done

    def _ids_size(self, done: Done) -> int:
        return _HEADER_BYTES + done.tokens * self.dtype.itemsize

    def _ends_size(self, done: Done) -> int:
        return _HEADER_BYTES + done.documents * END_DTYPE.itemsize


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time makes `path`; the others wait and then find it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    while True:
        with lock.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                held = lock.stat().st_ino == os.fstat(stream.fileno()).st_ino
            except FileNotFoundError:  # its last holder took it away while we waited
                held = False
            if held:
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


@contextmanager
def told_when_full(path: Path) -> Iterator[None]:
    """A full or broken disk in our words."""
    try:
        yield
    except OSError as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        trouble.where = trouble.where or str(path.parent)
        trouble.next = "free the disk and repeat the command: what was encoded in whole parts is kept"
        raise trouble from error


class _Part:
    def __init__(self) -> None:
        self._ids, self._ends = hashlib.sha256(), hashlib.sha256()

    def add(self, ids: bytes | memoryview, ends: bytes | memoryview) -> None:
        self._ids.update(ids)
        self._ends.update(ends)

    def hexdigests(self) -> list[str]:
        return [self._ids.hexdigest(), self._ends.hexdigest()]


@contextmanager
def _at(path: Path, size: int) -> Iterator[BinaryIO]:
    """`path` opened for writing behind its first `size` bytes, which are kept."""
    path.touch()
    os.truncate(path, size)
    with path.open("r+b") as stream:
        stream.seek(size)
        yield stream


def _write(stream: BinaryIO, values: np.ndarray[Any, Any]) -> memoryview:
    data = np.ascontiguousarray(values).data.cast("B")
    stream.write(data)
    return data


def _header(dtype: np.dtype[Any], length: int) -> bytes:
    """The header of a .npy file of that length; numpy pads it so that any length takes the same room."""
    made = BytesIO()
    description = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(made, description)
    assert len(made.getvalue()) == _HEADER_BYTES, len(made.getvalue())
    return made.getvalue()
