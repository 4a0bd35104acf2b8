"""The watchman of the isolated worker: a Python audit hook that stops forbidden steps and tells of them.

It is a bell, not a wall: native code passes it by, and then the walls (`walls.py`) must hold. What it adds
is a clear line about what a stranger's code tried, and protection where the machine offers no walls.
It must be installed after the libraries are loaded and cannot be removed for the life of the process.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_MAY_READ = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/timezone",
    "/usr/lib/os-release",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/filesystems",
    "/proc/sys",
    "/proc/self",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_STARTS_A_PROCESS = {
    "subprocess.Popen": "start a program",
    "os.system": "run a shell command",
    "os.exec": "replace itself by a program",
    "os.fork": "fork",
    "os.forkpty": "fork",
    "os.posix_spawn": "start a program",
    "os.spawn": "start a program",
    "pty.spawn": "start a program",
}
_USES_THE_NETWORK = {
    "socket.connect": "connect to",
    "socket.bind": "listen at",
    "socket.sendto": "send to",
    "socket.sendmsg": "send to",
    "socket.getaddrinfo": "look up",
    "socket.gethostbyname": "look up",
    "socket.gethostbyaddr": "look up",
}
# Events that change the path in their first argument.
_CHANGES = {
    "os.remove": "remove",
    "os.mkdir": "make a folder at",
    "os.rmdir": "remove the folder",
    "os.chmod": "change the rights of",
    "os.chown": "change the owner of",
    "os.truncate": "cut",
    "os.utime": "change the times of",
    "os.setxattr": "mark",
    "os.removexattr": "mark",
}
_REACHES_NATIVE_CODE = (
    "ctypes.dlopen",
    "ctypes.dlsym",
    "ctypes.dlsym/handle",
    "ctypes.call_function",
    "ctypes.string_at",
    "ctypes.wstring_at",
)


def install(
    folder: Path, readable: Iterable[Path], report: Callable[[str], None], *, installed_at: Iterable[Path]
) -> None:
    """Watch from now on: `report` gets one line per forbidden step, and the step raises PermissionError.

    `readable` are folders that may be read; code under `installed_at` (libraries) may use ctypes.
    """
    sys.addaudithook(_Watch(folder, readable, report, installed_at).hook)


class _Watch:
    def __init__(
        self,
        folder: Path,
        readable: Iterable[Path],
        report: Callable[[str], None],
        installed_at: Iterable[Path],
    ) -> None:
        self.folder = str(folder)
        roots = [str(each) for each in readable] + [str(each.resolve()) for each in readable]
        self.readable = (*_MAY_READ, *roots, self.folder)
        self.libraries = tuple(f"{each}{os.sep}" if each.is_dir() else str(each) for each in installed_at)
        self.report = report
        # What a stranger might replace is kept here by reference.
        self.realpath, self.fsdecode, self.getpid = os.path.realpath, os.fsdecode, os.getpid
        self.frame = sys._getframe
        self.handlers: dict[str, Callable[[str, tuple[Any, ...]], None]] = {
            "open": self._open,
            "os.listdir": self._list,
            "os.scandir": self._list,
            "os.rename": self._rename,
            "os.link": self._rename,
            "os.symlink": self._symlink,
            "os.kill": self._kill,
            "os.killpg": self._kill,
            "socket.__new__": self._socket,
            "import": self._import,
            **dict.fromkeys(_STARTS_A_PROCESS, self._process),
            **dict.fromkeys(_USES_THE_NETWORK, self._network),
            **dict.fromkeys(_CHANGES, self._change),
            **dict.fromkeys(_REACHES_NATIVE_CODE, self._native),
        }

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        handler = self.handlers.get(event)
        if handler is not None:
            handler(event, arguments)

    def _stop(self, attempt: str) -> None:
        self.report(attempt)
        raise PermissionError(f"isolated: it may not {attempt}")

    # Each handler knows one family of events.

    def _open(self, event: str, arguments: tuple[Any, ...]) -> None:
        path, _, flags = arguments
        if isinstance(path, int):
            return
        real = self._real(path)
        if isinstance(flags, int) and flags & _WRITING:
            if not self._inside(real) and real != "/dev/null":
                self._stop(f"write to {real}")
        elif not self._may_read(real):
            self._stop(f"read {real}")

    def _list(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = arguments[0]
        if isinstance(path, int):
            return
        real = self._real("." if path is None else path)
        if not self._may_read(real) and real != "/":
            self._stop(f"list {real}")

    def _change(self, event: str, arguments: tuple[Any, ...]) -> None:
        if isinstance(arguments[0], int):
            return
        # The last step is not followed: removing a link does not touch what it points to.
        real = self._real_parent(arguments[0])
        if not self._inside(real):
            self._stop(f"{_CHANGES[event]} {real}")

    def _rename(self, event: str, arguments: tuple[Any, ...]) -> None:
        for path in arguments[:2]:
            real = self._real_parent(path)
            if not self._inside(real):
                self._stop(f"{'link' if event == 'os.link' else 'move'} {real}")

    def _symlink(self, event: str, arguments: tuple[Any, ...]) -> None:
        source, place = self.fsdecode(arguments[0]), self._real_parent(arguments[1])
        reaches = self.realpath(source if source[:1] == "/" else f"{place.rpartition('/')[0]}/{source}")
        if not (self._inside(place) and self._inside(reaches)):
            self._stop(f"make a link to {reaches}")

    def _kill(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "os.kill" or arguments[0] != self.getpid():
            self._stop(f"send a signal to process {arguments[0]}")

    def _socket(self, event: str, arguments: tuple[Any, ...]) -> None:
        family = arguments[1]
        if family not in (socket.AF_UNIX, -1):
            self._stop("open a network socket")

    def _network(self, event: str, arguments: tuple[Any, ...]) -> None:
        whom = arguments[1] if event in ("socket.connect", "socket.bind", "socket.sendto") else arguments[0]
        self._stop(f"{_USES_THE_NETWORK[event]} {whom!r}"[:200])

    def _process(self, event: str, arguments: tuple[Any, ...]) -> None:
        what = f": {arguments[0]!r}"[:200] if arguments else ""
        self._stop(f"{_STARTS_A_PROCESS[event]}{what}")

    def _import(self, event: str, arguments: tuple[Any, ...]) -> None:
        file = arguments[1] if len(arguments) > 1 else None
        if isinstance(file, str) and self._inside(self._real(file)) and not file.endswith((".py", ".pyc")):
            self._stop(f"load native code from {file}")

    def _native(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Libraries use ctypes for themselves; a stranger's module may not.
        caller = self.frame(2)
        while caller is not None and "/ctypes/" in caller.f_code.co_filename:
            caller = caller.f_back  # type: ignore[assignment]
        if caller is not None and caller.f_code.co_filename.startswith(self.libraries):
            return
        self._stop(f"reach native code by {event}({', '.join(map(repr, arguments))})"[:200])

    def _real(self, path: Any) -> str:
        return self.realpath(self.fsdecode(path))

    def _real_parent(self, path: Any) -> str:
        text = self.fsdecode(path).rstrip("/")
        head, slash, tail = text.rpartition("/")
        if tail in ("", ".", ".."):
            return self.realpath(path)
        return f"{self.realpath((head or slash) or '.')}/{tail}"

    def _inside(self, real: str) -> bool:
        return real == self.folder or real.startswith(self.folder + os.sep)

    def _may_read(self, real: str) -> bool:
        own = f"/proc/{self.getpid()}"
        return any(real == root or real.startswith(root + os.sep) for root in (*self.readable, own))
