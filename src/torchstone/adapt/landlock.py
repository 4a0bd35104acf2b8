"""Landlock: a second fence for files, TCP and signals, which any Linux process may put around itself.

It needs neither root nor name spaces, so it also holds in containers that forbid those (Linux 5.13 for
files, 6.7 for TCP, 6.12 for signals and abstract sockets). Only rights that are named are given back;
UDP and the reading of file names and sizes lie outside of what it governs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_ASK_VERSION, _BELOW_PATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_DEVICES = 1 << 6 | 1 << 11
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ONLY_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_TCP = 3
_SIGNALS_AND_ABSTRACT_SOCKETS = 3


def version() -> int:
    """The version that the kernel offers; an OSError says that it offers none."""
    return _call(_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION)


def fence(folder: Path, readable: Iterable[Path]) -> list[str]:
    """Put the fence up for this process and its children; returns what it governs. Needs no_new_privs."""
    offered = version()
    files = (1 << 13) - 1
    files |= (
        (_REFER if offered >= 2 else 0) | (_TRUNCATE if offered >= 3 else 0) | (_IOCTL if offered >= 5 else 0)
    )
    tcp = _TCP if offered >= 4 else 0
    scope = _SIGNALS_AND_ABSTRACT_SOCKETS if offered >= 6 else 0
    attributes = (ctypes.c_uint64 * 3)(files, tcp, scope)
    size = 24 if offered >= 6 else 16 if offered >= 4 else 8
    fenced = _call(_CREATE, attributes, ctypes.c_size_t(size), 0)
    try:
        for path in readable:
            _allow(fenced, path, files & (_EXECUTE | _READ_FILE | _READ_DIR))
        for device in ("null", "zero", "full", "random", "urandom"):
            _allow(fenced, Path("/dev", device), files & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
        _allow(fenced, Path("/proc"), files & (_READ_FILE | _READ_DIR))
        _allow(fenced, folder, files & ~_EXECUTE & ~_MAKE_DEVICES)
        _call(_RESTRICT, fenced, 0)
    finally:
        os.close(fenced)
    return ["files"] + (["TCP"] if tcp else []) + (["signals"] if scope else [])


def _allow(fenced: int, path: Path, rights: int) -> None:
    if not path.exists():
        return
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # struct landlock_path_beneath_attr is packed: 64 bits of rights, 32 bits of descriptor.
        rule = (ctypes.c_uint32 * 3)()
        given = rights if path.is_dir() else rights & _ONLY_FILES
        rule[0], rule[1], rule[2] = given & 0xFFFFFFFF, given >> 32, place
        _call(_ADD_RULE, fenced, _BELOW_PATH, rule, 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    if sys.platform != "linux":  # elsewhere these numbers are other calls
        raise OSError(errno.ENOSYS, f"{sys.platform} has none")
    answer: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer
