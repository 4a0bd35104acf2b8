"""Files that are whole or absent: atomic writes, hashes, JSON.

A reader never sees a half-written file: data goes to a temporary neighbour, is flushed to the
disk, and takes its name in one rename; then the folder is flushed so that the name survives too.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HERE, _RENAME_EXCHANGE = -100, 2
"""AT_FDCWD and a flag of renameat2, from the kernel's headers."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def take_place(new: Path, old: Path) -> None:
    """`new` takes the name of `old`, which gets that of `new`: a reader always finds one of them there.

    Where the system cannot do this in one move, for an instant there is none.
    """
    if _exchange(new, old):
        return
    aside = old.with_name(f"{new.name}.old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None or call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return call is not None
    if (problem := ctypes.get_errno()) in (errno.EINVAL, errno.ENOSYS):  # this file system cannot
        return False
    raise OSError(problem, os.strerror(problem), str(one), None, str(other))


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def inventory(path: Path) -> dict[str, dict[str, Any]]:
    """`{"name": {"bytes", "sha256"}}` of every file below a folder, or of the one file, by name."""
    path = Path(path)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return {
        each.relative_to(path if path.is_dir() else path.parent).as_posix(): {
            "bytes": each.stat().st_size,
            "sha256": sha256(each),
        }
        for each in files
    }


def altered(path: Path, expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs from an earlier `inventory`, a sentence for each file; files that came later do not."""
    path, problems = Path(path), []
    for name, was in expected.items():
        file = path / name if path.is_dir() else path
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif (found := file.stat().st_size) != was["bytes"]:
            problems.append(f"{name} has {found} bytes instead of {was['bytes']}")
        elif sha256(file) != was["sha256"]:
            problems.append(f"{name} has other content")
    return problems
