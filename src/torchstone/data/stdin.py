"""Standard input as a text file: spooled once into the cache, under the hash of what came.

The same text piped in again has the same name, so a run can be resumed. A terminal is refused: nobody would
know what to type.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

from torchstone import _files
from torchstone._errors import DataError, UsageError
from torchstone.data.cache import cache_folder

STDIN = "-"
READ_BYTES = 1 << 20


def spooled(cache_dir: Path | None = None, stream: BinaryIO | None = None) -> Path:
    """The file that now holds what came; memory does not grow with it."""
    if stream is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "there is nothing on standard input",
                why="it is a terminal",
                next="pipe a text into the command, or give a file: --data PATH",
            )
        stream = sys.stdin.buffer
    folder = cache_folder(cache_dir) / "stdin"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{os.getpid()}.partial"
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            while chunk := stream.read(READ_BYTES):
                digest.update(chunk)
                num_bytes += len(chunk)
                file.write(chunk)
        if not num_bytes:
            raise DataError("there is no text to read", where="standard input", why="it is empty")
        _files.flush(partial)
        path = folder / f"{digest.hexdigest()[:24]}.txt"
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
