"""The store in a PostgreSQL database, for a team or a cluster (extra `[postgres]`).

    TORCHSTONE_STORE=postgresql://USER@HOST/DATABASE
    TORCHSTONE_STORE='postgresql://USER@HOST/DATABASE?options=-csearch_path%3Dlab'     # a schema of its own

Writes about one thing take an advisory lock on its name for the length of their transaction, so that runs do
not wait for each other. A password belongs into ~/.pgpass (or PGPASSFILE), where every machine has its own.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError, DBAPIError

from torchstone._errors import DiskFull, EnvironmentProblem, TryAgain, UsageError
from torchstone._optional import require
from torchstone.tracking import migrations
from torchstone.tracking.database import Database, first_line

SCHEMES = ("postgresql://", "postgres://", "postgresql+psycopg://")
CONNECT_S = 10
_LOCK = text("SELECT pg_advisory_xact_lock(:number)")
_NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")
_REFUSED = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
)


def open_postgres(address: str, *, readonly: bool, patience_s: float) -> PostgresDatabase:
    """Tables are made where there are none yet, unless `readonly`; those of others are left alone."""
    require("psycopg", "postgres")
    database = PostgresDatabase(address, readonly=readonly, patience_s=patience_s)

    def found(connection: Connection) -> int:
        migrations.refuse_foreign(connection, database.where)
        return migrations.version(connection)

    try:
        try:
            version = database.read(found)
        except UsageError:
            # Between two looks another process may have made the tables; behind its lock they are all there.
            version = database.read(found) if readonly else database.write(found, about="schema")
        if readonly and not version:
            raise UsageError(
                "there is no store here yet",
                where=database.where,
                next="run `torchstone train` or `torchstone check` first",
            )
        if version < migrations.newest_version() and not readonly:
            database.write(migrations.migrate, about="schema")
    except BaseException:
        database.close()
        raise
    return database


class PostgresDatabase(Database):
    """One database of a PostgreSQL server."""

    def __init__(self, address: str, *, readonly: bool, patience_s: float) -> None:
        self._url = _url(address)
        self.address = address
        shown = self._url.set(drivername="postgresql").difference_update_query(["password"])
        self.where = shown.render_as_string(hide_password=True)
        self.has_password = bool(self._url.password or "password" in self._url.query)
        self._reached = False
        super().__init__(readonly=readonly, patience_s=patience_s)

    def _new_engine(self) -> Engine:
        engine = create_engine(
            self._url,
            connect_args={
                "connect_timeout": CONNECT_S,
                "application_name": "torchstone",
                # A network that swallows packets ends the wait as a lock does: after the patience.
                "tcp_user_timeout": max(1000, int(self.patience_s * 1000)),
            },
            execution_options={"postgresql_readonly": self.readonly},
        )
        event.listen(engine, "connect", self._connected)
        return engine

    def _connected(self, connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {max(1, int(self.patience_s * 1000))}")
        connection.commit()
        self._reached = True

    def _look(self) -> None:
        """A connection that was lost shows when it is used."""

    def _alone(self, connection: Connection, about: str) -> None:
        digest = hashlib.blake2b(about.encode(), digest_size=8).digest()
        connection.execute(_LOCK, {"number": int.from_bytes(digest, signed=True)})

    def now(self, connection: Connection) -> float:
        return float(connection.execute(_NOW).scalar_one())

    def insert(self, table: Table) -> Any:
        return insert(table)

    def _passes(self, error: DBAPIError) -> bool:
        if _state(error) in ("40001", "40P01"):  # two transactions met; one was undone
            return True
        return self._reached and _is_lost(error)

    def _explained(self, error: DBAPIError) -> Exception:
        state, why = _state(error), first_line(error)
        if state in ("53100", "58030"):
            return DiskFull("no space left for the store", where=self.where, why=why)
        if state == "55P03":
            return TryAgain(f"the store was busy for {self.patience_s:g} s", where=self.where, why=why)
        if state in ("3F000", "42501", "28P01", "28000", "3D000") or (
            _is_lost(error) and any(each in why for each in _REFUSED)
        ):
            return EnvironmentProblem("PostgreSQL refuses this store", where=self.where, why=why)
        if _is_lost(error) or state.startswith(("53", "57")):
            return TryAgain("the store cannot be reached", where=self.where, why=why)
        return error


def _url(address: str) -> URL:
    try:
        return make_url(address).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "this is no address of a PostgreSQL database",
            why="user, host, port and database cannot be told apart in it",
            next="postgresql://USER@HOST:PORT/DATABASE",
        ) from error


def _state(error: DBAPIError) -> str:
    """SQLSTATE, five characters; empty where the server was not reached."""
    return getattr(error.orig, "sqlstate", None) or ""


def _is_lost(error: DBAPIError) -> bool:
    """No connection, or none any more; a server that is shutting down or starting up counts."""
    return (
        error.connection_invalidated
        or _state(error).startswith(("08", "57P"))
        or (not _state(error) and type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout"))
    )
