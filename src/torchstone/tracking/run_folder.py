"""The folder of one run: everything the run writes lies here, and one process at a time may write.

    folder = RunFolder.create(name="gpt-nano")          # runs/<date>-<time>-gpt-nano-<4 hex>/
    with folder.locked():
        folder.write_config(resolved)
        folder.set_status("running")

`config.json`, `environment.json`, `run.json` (who and how far), `checkpoints/`; `latest` and `best` at the
root belong to `checkpoint.py`. The lock is the kernel's (flock): it goes with its process, never stale.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
import unicodedata
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from torchstone import _files
from torchstone._errors import RunLocked, UsageError

STATUSES = ("created", "running", "completed", "interrupted", "failed")
_LOCK = "run.lock"


def new_run_id(name: str) -> str:
    """`<date>-<time>-<name>-<4 hex>` in UTC; only letters, digits, dot, dash and underscore."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{now}-{safe_name(name)}-{secrets.token_hex(2)}"


def safe_name(name: str) -> str:
    """`name` as a part of a file name: plain characters, at most 60, never empty or hidden."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:60].strip("-._") or "run"


class RunFolder:
    """A run folder that exists. Make one with `create`, reach an old one with `open`."""

    def __init__(self, path: Path, run_id: str, name: str) -> None:
        self.path = path
        self.run_id = run_id
        self.name = name

    @classmethod
    def create(
        cls, run_dir: str | Path | None = None, *, name: str = "run", root: str | Path = "runs"
    ) -> RunFolder:
        """Make `run_dir`, or a new folder under `root`. A folder that holds a run already is refused."""
        run_id = new_run_id(name)
        path = Path(run_dir) if run_dir is not None else Path(root) / run_id
        if cls.exists(path):
            raise UsageError(
                "this folder holds a run already",
                where=str(path),
                next="give --resume auto to continue it, or another --run-dir",
            )
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        folder = cls(path, run_id, name)
        folder._write({"run_id": run_id, "name": name, "status": "created", "created": time.time()})
        return folder

    @classmethod
    def open(cls, run_dir: str | Path) -> RunFolder:
        """A folder made by `create`."""
        path = Path(run_dir)
        if not cls.exists(path):
            raise UsageError("there is no run in this folder", where=str(path), next="torchstone runs list")
        info = _files.read_json(path / "run.json")
        return cls(path, info["run_id"], info["name"])

    @staticmethod
    def exists(run_dir: str | Path) -> bool:
        return (Path(run_dir) / "run.json").is_file()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`: run_id, name, status, created, started, ended (seconds since 1970, UTC)."""
        return _files.read_json(self.path / "run.json")

    def _write(self, info: dict[str, Any]) -> None:
        _files.write_json(self.path / "run.json", info)

    def set_status(self, status: str) -> None:
        """`running` keeps the first start; any later status notes the end."""
        if status not in STATUSES:
            raise UsageError(f"there is no status {status!r}", next=f"use one of: {', '.join(STATUSES)}")
        info = self.info
        if status == "running":
            info = {"started": time.time()} | info | {"status": status, "ended": None}
        else:
            info |= {"status": status, "ended": time.time()}
        self._write(info)

    def write_config(self, resolved: dict[str, Any]) -> None:
        _files.write_json(self.path / "config.json", resolved)

    def read_config(self) -> dict[str, Any]:
        return _files.read_json(self.path / "config.json")

    def write_environment(self, snapshot: dict[str, Any]) -> None:
        _files.write_json(self.path / "environment.json", snapshot)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; RunLocked, naming the holder, if another process does."""
        with locked_file(self.path / _LOCK):
            yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold a lock that goes with this process; RunLocked, naming the holder, if another one has it."""
    file = path.open("a+", encoding="ascii")
    try:
        _take(file, path.parent)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _HELD.add(file)
        yield
    finally:
        _HELD.discard(file)
        file.close()


def holder(run_dir: str | Path) -> int | None:
    """The process that holds the folder now, if there is one. Leaves no trace."""
    try:
        file = (Path(run_dir) / _LOCK).open("r", encoding="ascii")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return None


def _take(file: IO[str], path: Path) -> None:
    for _ in range(25):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)  # it may have been a glance of `holder`, which is over at once
    file.seek(0)
    raise RunLocked(
        f"process {file.read() or 'unknown'} is writing to this run",
        where=str(path),
        next="wait for it or stop it; another --run-dir starts a run beside it",
    )


_HELD: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A forked child (a data loader's worker) must not keep the lock alive when its parent dies."""
    for file in list(_HELD):
        file.close()


os.register_at_fork(after_in_child=_leave_to_parent)
