"""Connections to one SQLite file that many processes write at once. Knows no tables.

Every write takes the write lock at its start (BEGIN IMMEDIATE), so that SQLite can wait for it, and is
repeated as a whole if the file is busy in one of the moments where SQLite does not wait by itself. Readers
that must not leave a trace open the file read-only. A process forked from ours gets its own connections.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from torchstone._errors import DiskFull, EnvironmentProblem, TryAgain, UsageError

Result = TypeVar("Result")

# Connections of a parent process. Closing one here could disturb the parent's, so they are kept, unused.
_INHERITED: list[Engine] = []


class Database:
    """Runs functions of a `Connection` in transactions on one file."""

    def __init__(self, path: Path, *, readonly: bool, patience_s: float) -> None:
        self.path = path
        self.readonly = readonly
        self.patience_s = patience_s
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._inode: tuple[int, int] | None = None
        self._engine = create_engine(
            "sqlite://",
            creator=self._open_for_reading if self.readonly else self._open_for_writing,
            # A reader decides anew each time how to open the file (see below).
            poolclass=NullPool if self.readonly else QueuePool,
        )
        event.listen(self._engine, "begin", _begin)

    def close(self) -> None:
        if self._pid == os.getpid():
            self._engine.dispose()

    def read(self, work: Callable[[Connection], Result]) -> Result:
        if not self.readonly:
            return self._patiently(lambda: self._run(work, write=False))
        for _ in range(5):
            before = self._stamp()
            try:
                found = self._patiently(lambda: self._run(work, write=False))
            except EnvironmentProblem:
                if self._stamp() == before:
                    raise
                continue
            # A writer that came meanwhile may have moved pages of a file taken as immutable: read it again.
            if before[2] or self._stamp() == before:
                return found
        raise TryAgain("the store changes too quickly to be read", where=str(self.path))

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one transaction: all of it is kept, or nothing."""
        if self.readonly:
            raise UsageError("the store is open for reading only", where=str(self.path))
        return self._patiently(lambda: self._run(work, write=True))

    def _run(self, work: Callable[[Connection], Result], *, write: bool) -> Result:
        if self._pid != os.getpid():
            _INHERITED.append(self._engine)
            self._start()
        if not self.readonly:
            self._still_there()
        with self._engine.connect() as connection:
            connection = connection.execution_options(writes=write)
            with connection.begin():
                return work(connection)

    def _still_there(self) -> None:
        """An open file that was deleted would take our rows without a word, and lose them."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            found = None
        inode = None if found is None else (found.st_dev, found.st_ino)
        if self._inode is not None and inode != self._inode:
            self._engine.dispose()
            raise TryAgain("the store was removed or replaced", where=str(self.path))

    def _patiently(self, attempt: Callable[[], Result]) -> Result:
        deadline = time.monotonic() + self.patience_s
        pause = 0.002
        while True:
            try:
                return attempt()
            except OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise self._explained(error) from error
            except DatabaseError as error:
                raise self._explained(error) from error
            time.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _explained(self, error: DatabaseError) -> Exception:
        text = str(error.orig)
        if "full" in text:
            return DiskFull("no space left for the store", where=str(self.path), why=text)
        if _is_busy(error):
            return TryAgain(f"the store was busy for {self.patience_s:g} s", where=str(self.path), why=text)
        if "not a database" in text or "malformed" in text:
            return EnvironmentProblem(
                "the store cannot be read",
                where=str(self.path),
                why=text,
                next="move the file away; the run folders keep their own files",
            )
        if isinstance(error, OperationalError):
            return TryAgain("the store cannot be used", where=str(self.path), why=text)
        return error

    def _open_for_writing(self) -> sqlite3.Connection:
        connection = self._connect("rwc")
        if _pragma(connection, "journal_mode") != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode this survives any death of the process; only a power cut may cost the last transactions.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        found = self.path.stat()
        self._inode = (found.st_dev, found.st_ino)
        return connection

    def _open_for_reading(self) -> sqlite3.Connection:
        # A read-only connection to a WAL file leaves `-wal` and `-shm` behind. Where no writer is about (no
        # `-wal`), nothing can change under us, and SQLite may take the file as immutable: no trace.
        writer_about = Path(f"{self.path}-wal").exists()
        return self._connect("ro" if writer_about else "ro&immutable=1")

    def _stamp(self) -> tuple[int, int, bool]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, Path(f"{self.path}-wal").exists()

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self.patience_s,
            isolation_level=None,  # transactions are ours: see `_begin`
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA busy_timeout = {int(self.patience_s * 1000)}")
        return connection


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_busy(error: DatabaseError) -> bool:
    text = str(error.orig)
    return "locked" in text or "busy" in text
