"""Transactions on a database that many processes write at once. Knows no tables.

    database = open_database("runs/store.db")            # or postgresql://USER@HOST/DATABASE
    database.write(lambda connection: connection.execute(statement), about="a1")
    database.read(lambda connection: connection.execute(query).all())

On every database a write is kept whole or not at all; writes about the same thing happen one after the other,
each seeing what those before it left; a write that met a passing obstacle (a lock, a lost connection) is
repeated as a whole until the patience ends. A process forked from ours gets its own connections.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import DBAPIError

from torchstone._errors import TryAgain, UsageError

Result = TypeVar("Result")

# Connections of a parent process. Closing one here could disturb the parent's, so they are kept, unused.
_INHERITED: list[Engine] = []


class Database(ABC):
    """Runs functions of a `Connection` in transactions."""

    address: str
    """Opens it again, from this process or another."""
    where: str
    """What messages and records call it: no password in it."""
    folder: Path | None = None
    """Where it lies, if it is a file."""
    has_password = False
    """Whether the address holds a secret."""

    def __init__(self, *, readonly: bool, patience_s: float) -> None:
        self.readonly = readonly
        self.patience_s = patience_s
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._engine = self._new_engine()

    def close(self) -> None:
        if self._pid == os.getpid():
            self._engine.dispose()

    def read(self, work: Callable[[Connection], Result]) -> Result:
        return self._patiently(lambda: self._run(work, about=None))

    def write(self, work: Callable[[Connection], Result], *, about: str) -> Result:
        """Run `work` in one transaction: all of it is kept, or nothing. It may be run again, as a whole.

        about: what is written about, such as a run or a queue; two writes about one thing do not overlap.
        """
        if self.readonly:
            raise UsageError("the store is open for reading only", where=self.where)
        return self._patiently(lambda: self._run(work, about=about))

    def _run(self, work: Callable[[Connection], Result], *, about: str | None) -> Result:
        if self._pid != os.getpid():
            _INHERITED.append(self._engine)
            self._start()
        self._look()
        worked = False
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=about is not None)
                with connection.begin():
                    if about is not None:
                        self._alone(connection, about)
                    result = work(connection)
                    worked = True
                return result
        except DBAPIError as error:
            if worked and error.connection_invalidated:
                raise TryAgain(
                    "the store did not say whether it kept what was written",
                    where=self.where,
                    why=first_line(error),
                ) from error
            raise

    def _patiently(self, attempt: Callable[[], Result]) -> Result:
        deadline = time.monotonic() + self.patience_s
        pause = 0.002
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                if not self._passes(error) or time.monotonic() > deadline:
                    explained = self._explained(error)
                    if explained is error:
                        raise
                    raise explained from error
            time.sleep(pause)
            pause = min(pause * 2, 0.1)

    @abstractmethod
    def _look(self) -> None:
        """What is to be seen to before every transaction."""

    @abstractmethod
    def _new_engine(self) -> Engine: ...

    @abstractmethod
    def _alone(self, connection: Connection, about: str) -> None:
        """Wait until no other transaction writes about this, and keep others waiting."""

    @abstractmethod
    def _passes(self, error: DBAPIError) -> bool:
        """Whether the same again may succeed shortly."""

    @abstractmethod
    def _explained(self, error: DBAPIError) -> Exception:
        """The error as a user understands it."""

    @abstractmethod
    def now(self, connection: Connection) -> float:
        """Seconds since 1970, UTC, by the clock that all who write here share."""

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """An INSERT that knows `on_conflict_do_update` and `on_conflict_do_nothing`."""


def first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
