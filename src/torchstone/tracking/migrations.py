"""From any older store to the newest: numbered small functions, each run once, all in one transaction.

The number of the last one that ran is kept in the file (`PRAGMA user_version`); `application_id` says that
the file is ours. To change the schema, append a function; never edit an old one once it is released.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from torchstone._errors import EnvironmentProblem, UsageError
from torchstone.tracking import schema

APPLICATION_ID = 0x7473746E  # "tstn"


def runs_and_metrics(connection: Connection) -> None:
    tables = [schema.runs, schema.metrics, schema.last_values]
    schema.metadata.create_all(connection, tables=tables)


def events_and_checks(connection: Connection) -> None:
    tables = [schema.events, schema.check_reports, schema.checks]
    schema.metadata.create_all(connection, tables=tables)


def jobs_and_leases(connection: Connection) -> None:
    schema.metadata.create_all(connection, tables=[schema.jobs])


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (runs_and_metrics, events_and_checks, jobs_and_leases)


def newest_version() -> int:
    return len(MIGRATIONS)


def version(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def refuse_foreign(connection: Connection, where: str) -> None:
    """An SQLite file that torchstone did not make, or that a newer torchstone made, is left alone."""
    ours = connection.exec_driver_sql("PRAGMA application_id").scalar_one() == APPLICATION_ID
    if not ours and connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
        raise UsageError(
            "this database is not a torchstone store",
            where=where,
            why="it holds tables that torchstone did not make",
            next="name another file in TORCHSTONE_STORE",
        )
    found = version(connection)
    if found > newest_version():
        raise EnvironmentProblem(
            "a newer torchstone wrote this store",
            where=where,
            why=f"it has schema {found}, this version knows {newest_version()}",
            next="pip install --upgrade torchstone",
        )


def migrate(connection: Connection) -> None:
    """Bring the store to the newest schema. The caller holds the write lock."""
    before = version(connection)
    if before == newest_version():
        return
    for step in MIGRATIONS[before:]:
        step(connection)
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version = {newest_version()}")
