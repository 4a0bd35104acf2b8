"""The store in one SQLite file.

Every write takes the write lock of the file at its start (BEGIN IMMEDIATE), so that SQLite can wait for it,
and is repeated if the file is busy in one of the moments where SQLite does not wait by itself. Readers that
must not leave a trace open the file read-only.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from torchstone._errors import DiskFull, EnvironmentProblem, TryAgain, UsageError
from torchstone.tracking import migrations
from torchstone.tracking.database import Database, Result


def open_sqlite(path: Path, *, readonly: bool, patience_s: float) -> SqliteDatabase:
    """A file that is not ours is left as it is; a new one is made, unless `readonly`."""
    if readonly and not path.is_file():
        raise UsageError(
            "there is no store here yet",
            where=str(path),
            next="run `torchstone train` or `torchstone check` first, or set TORCHSTONE_STORE",
        )
    if path.is_file():
        looking = SqliteDatabase(path, readonly=True, patience_s=patience_s)
        looking.read(lambda connection: migrations.refuse_foreign(connection, str(path)))
    if readonly:
        return looking
    path.parent.mkdir(parents=True, exist_ok=True)
    database = SqliteDatabase(path, readonly=False, patience_s=patience_s)
    database.write(migrations.migrate, about="schema")
    return database


class SqliteDatabase(Database):
    """One file; all writes wait for each other, whatever they are about."""

    def __init__(self, path: Path, *, readonly: bool, patience_s: float) -> None:
        self.path = path
        self.address = str(path.absolute())
        self.where = str(path)
        self.folder = path.absolute().parent
        super().__init__(readonly=readonly, patience_s=patience_s)

    def _new_engine(self) -> Engine:
        self._inode: tuple[int, int] | None = None
        engine = create_engine(
            "sqlite://",
            creator=self._open_for_reading if self.readonly else self._open_for_writing,
            # A reader decides anew each time how to open the file (see below).
            poolclass=NullPool if self.readonly else QueuePool,
        )
        event.listen(engine, "begin", _begin)
        return engine

    def read(self, work: Callable[[Connection], Result]) -> Result:
        if not self.readonly:
            return super().read(work)
        for _ in range(5):
            before = self._stamp()
            try:
                found = super().read(work)
            except EnvironmentProblem:
                if self._stamp() == before:
                    raise
                continue
            # A writer that came meanwhile may have moved pages of a file taken as immutable: read it again.
            if before[2] or self._stamp() == before:
                return found
        raise TryAgain("the store changes too quickly to be read", where=self.where)

    def _look(self) -> None:
        """An open file that was deleted would take our rows without a word, and lose them."""
        if self.readonly:
            return
        try:
            found = self.path.stat()
        except FileNotFoundError:
            found = None
        inode = None if found is None else (found.st_dev, found.st_ino)
        if self._inode is not None and inode != self._inode:
            self._engine.dispose()
            raise TryAgain("the store was removed or replaced", where=self.where)

    def _alone(self, connection: Connection, about: str) -> None:
        """BEGIN IMMEDIATE has seen to it."""

    def now(self, connection: Connection) -> float:
        return time.time()

    def insert(self, table: Table) -> Any:
        return insert(table)

    def _passes(self, error: DBAPIError) -> bool:
        text = str(error.orig)
        return isinstance(error, OperationalError) and ("locked" in text or "busy" in text)

    def _explained(self, error: DBAPIError) -> Exception:
        text = str(error.orig)
        if "full" in text:
            return DiskFull("no space left for the store", where=self.where, why=text)
        if self._passes(error):
            return TryAgain(f"the store was busy for {self.patience_s:g} s", where=self.where, why=text)
        if "not a database" in text or "malformed" in text:
            return EnvironmentProblem(
                "the store cannot be read",
                where=self.where,
                why=text,
                next="move the file away; the run folders keep their own files",
            )
        if isinstance(error, OperationalError):
            return TryAgain("the store cannot be used", where=self.where, why=text)
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
