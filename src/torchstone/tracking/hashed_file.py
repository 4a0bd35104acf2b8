"""A file that is hashed while it is written, so that nobody has to read it again for its sha256.

The hash runs on another thread, over the same memory that goes to the disk. On a machine with a second core
it costs next to no time beside the write; `bench/checkpoint.py` measures it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_PIECE = 8 << 20
_SMALL = 1 << 20


class HashedFile:
    """A new file: `write`, then `close`, which returns when the bytes are on the disk.

    What is written must not change before `sha256()` was called: it is not copied.
    """

    def __init__(self, path: Path, hasher: ThreadPoolExecutor | None) -> None:
        self.num_bytes = 0
        self._hash = hashlib.sha256()
        self._hasher = hasher
        """Runs one task at a time, in order. None: hashed by whoever writes."""
        self._hashed: Future[None] | None = None
        self._waiting = bytearray()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, data: bytes | memoryview) -> None:
        data = memoryview(data).cast("B")
        if len(data) < _SMALL:  # thousands of small tensors must not become as many system calls
            self._waiting += data
            if len(self._waiting) >= _SMALL:
                self._send_waiting()
            return
        self._send_waiting()
        for start in range(0, len(data), _PIECE):
            self._send(data[start : start + _PIECE])

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        if waiting:
            self._send(memoryview(waiting))

    def _send(self, piece: memoryview) -> None:
        if self._hasher is None:
            self._hash.update(piece)
        else:
            self._hashed = self._hasher.submit(self._hash.update, piece)
        self.num_bytes += len(piece)
        while piece:
            piece = piece[os.write(self._descriptor, piece) :]

    def close(self) -> None:
        """Send the rest and wait for the disk."""
        self._send_waiting()
        os.fsync(self._descriptor)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def sha256(self) -> str:
        if self._hashed is not None:
            self._hashed.result()  # the tasks before it are done, for there is one worker
        return self._hash.hexdigest()


@contextmanager
def hashed_file(path: Path, hasher: ThreadPoolExecutor | None = None) -> Iterator[HashedFile]:
    """Write a new file; on leaving the block it is on the disk, or the block's error goes on."""
    file = HashedFile(path, hasher)
    try:
        yield file
        file.close()
    finally:
        file.abandon()
