"""Every system call of a process that changes a disk, seen from outside before it happens (Linux, seccomp).

    in the child:     descriptor = listen()           from now on each such call waits for an answer
    in the parent:    call = next_call(descriptor); answer(descriptor, call)          let it happen
                      answer(descriptor, call, errno.EIO)                             or make it fail

This sees what native libraries do (safetensors, torch, SQLite) as well as Python, so nothing about the
writer of a checkpoint has to be known. The kernel needs user notification: Linux 5.19 or later.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

_X86 = {
    "write": 1, "open": 2, "pwrite64": 18, "writev": 20, "sendfile": 40, "fsync": 74, "fdatasync": 75,
    "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86,
    "unlink": 87, "symlink": 88, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264,
    "linkat": 265, "fallocate": 285, "pwritev": 296, "renameat2": 316, "copy_file_range": 326,
}  # fmt: skip
_ARM = {
    "mkdirat": 34, "unlinkat": 35, "linkat": 37, "renameat": 38, "truncate": 45, "ftruncate": 46,
    "fallocate": 47, "openat": 56, "write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70, "sendfile": 71,
    "fsync": 82, "fdatasync": 83, "renameat2": 276, "copy_file_range": 285,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, 317, _X86), "aarch64": (0xC00000B7, 277, _ARM)}

# Which argument holds what: a descriptor, a path, or a folder's descriptor before the path.
_BY_DESCRIPTOR = {"write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate"}
_BY_PATH = {"open", "creat", "truncate", "rename", "mkdir", "rmdir", "unlink", "link", "symlink"}
_FLAGS_AT = {"open": 1, "openat": 2}
_OUTPUT_AT = {"sendfile": 0, "copy_file_range": 2}

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_CONTINUE = 1
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NO_NEW_PRIVILEGES = 38


@dataclass(frozen=True)
class Call:
    """One call that waits for its answer."""

    number: int
    name: str
    path: str
    """What it is about, as far as it can be told."""


def why_not() -> str:
    """Empty where this works, else the reason."""
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return f"system calls are watched on Linux on x86_64 or aarch64, not on {platform.machine()}"
    child = os.fork()
    if child == 0:
        try:
            listen()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"this kernel does not let a process watch another's calls: {os.strerror(code)}" if code else ""


def listen() -> int:
    """Have all calls of this process, its threads and children announced; the descriptor to hand over."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program()
    filters = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(filters))
    )
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    _, seccomp, _ = _MACHINES[platform.machine()]
    # Once a call is announced only a kill can end the wait: a disk does not return early for a signal.
    descriptor: int = libc.syscall(seccomp, 1, _NEW_LISTENER | _WAIT_KILLABLE, header)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return descriptor


def _program() -> bytes:
    """The filter: announce the calls of the table, opening only where it may write."""
    architecture, _, numbers = _MACHINES[platform.machine()]
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    load, equal, any_bit, leave = 0x20, 0x15, 0x45, 0x06
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (leave, 0, 0, _ALLOW), (load, 0, 0, 0)]
    for name, number in numbers.items():
        if name in _FLAGS_AT:
            where = 16 + 8 * _FLAGS_AT[name]
            lines += [(equal, 0, 4, number), (load, 0, 0, where), (any_bit, 0, 1, writes)]
            lines += [(leave, 0, 0, _NOTIFY), (leave, 0, 0, _ALLOW)]
        else:
            lines += [(equal, 0, 1, number), (leave, 0, 0, _NOTIFY)]
    lines.append((leave, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


_NAMES = {number: name for name, number in _MACHINES.get(platform.machine(), (0, 0, _X86))[2].items()}


def next_call(descriptor: int) -> Call | None:
    """The next call that waits; None if its process is gone already."""
    buffer = bytearray(80)
    try:
        fcntl.ioctl(descriptor, _RECEIVE, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    number, process, _, call, _, _, *arguments = struct.unpack("=QIIiIQ6Q", buffer)
    name = _NAMES[call]
    try:
        return Call(number, name, _subject(process, name, arguments))
    except OSError:
        return Call(number, name, "")


def answer(descriptor: int, call: Call, error: int = 0) -> None:
    """Let the call happen, or make it fail with `error` without happening."""
    response = struct.pack("=QqiI", call.number, 0, -error, 0 if error else _CONTINUE)
    try:
        fcntl.ioctl(descriptor, _SEND, bytearray(response))
    except OSError as problem:
        if problem.errno != errno.ENOENT:  # the process was killed while it waited
            raise


def _subject(process: int, name: str, arguments: list[int]) -> str:
    if name in _BY_DESCRIPTOR or name in _OUTPUT_AT:
        return str(Path(f"/proc/{process}/fd/{arguments[_OUTPUT_AT.get(name, 0)]}").readlink())
    if name in _BY_PATH:
        return _path(process, -100, arguments[0])
    return _path(process, arguments[0], arguments[1])


def _path(process: int, folder: int, address: int) -> str:
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        # Two reads: the page after the path's may not exist.
        raw = memory.read(4096 - address % 4096)
        if b"\0" not in raw:
            raw += memory.read(4096)
    text = os.fsdecode(raw.partition(b"\0")[0])
    folder = ctypes.c_int(folder & 0xFFFFFFFF).value
    base = Path(f"/proc/{process}/cwd" if folder == -100 else f"/proc/{process}/fd/{folder}")
    return str(base.readlink() / text) if not text.startswith("/") else text
