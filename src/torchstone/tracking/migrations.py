"""From any older store to the newest: numbered small functions, each run once, all in one transaction.

The number of the last one that ran is kept in an SQLite file as `PRAGMA user_version`, whose `application_id`
says that the file is ours, and in PostgreSQL in a table of its own. To change the schema, append a function;
never edit an old one once it is released.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection, delete, insert, inspect, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import DDLElement
from sqlalchemy.sql.compiler import DDLCompiler

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


def model_registry(connection: Connection) -> None:
    tables = [schema.registered_models, schema.model_tags, schema.model_exports]
    schema.metadata.create_all(connection, tables=tables)


def queue_of_jobs(connection: Connection) -> None:
    there = {each["name"] for each in inspect(connection).get_columns("jobs")}
    for column in ("priority", "needs", "stop", "created", "began", "ended"):
        if column not in there:  # a store that is new has them from `jobs_and_leases`
            connection.execute(_AddColumn(schema.jobs.c[column]))
    schema.metadata.create_all(connection, tables=[schema.job_log, schema.schedules])


class _AddColumn(DDLElement):
    """ALTER TABLE ... ADD COLUMN, which SQLAlchemy leaves to others."""

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: DDLCompiler, **_: Any) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.get_column_specification(element.column)}"


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    runs_and_metrics,
    events_and_checks,
    jobs_and_leases,
    model_registry,
    queue_of_jobs,
)


def newest_version() -> int:
    return len(MIGRATIONS)


def version(connection: Connection) -> int:
    """The number of the last migration that ran here."""
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if not inspect(connection).has_table(schema.stamp.name):
        return 0
    return connection.execute(select(schema.stamp.c.version)).scalar_one()


def refuse_foreign(connection: Connection, where: str) -> None:
    """What torchstone did not make, or a newer torchstone made, is left alone."""
    theirs = _theirs(connection)
    if theirs:
        raise UsageError(
            "this database is not a torchstone store",
            where=where,
            why=f"it holds tables that torchstone did not make: {', '.join(theirs[:5])}",
            next="name another file in TORCHSTONE_STORE"
            if connection.dialect.name == "sqlite"
            else "name another database, or a schema of its own: ?options=-csearch_path%3DNAME",
        )
    found = version(connection)
    if found > newest_version():
        raise EnvironmentProblem(
            "a newer torchstone wrote this store",
            where=where,
            why=f"it has schema {found}, this version knows {newest_version()}",
            next="pip install --upgrade torchstone",
        )


def _theirs(connection: Connection) -> list[str]:
    """Tables in our way. A file is ours alone; a PostgreSQL database may hold other things beside us."""
    if connection.dialect.name == "sqlite":
        if connection.exec_driver_sql("PRAGMA application_id").scalar_one() == APPLICATION_ID:
            return []
        return sorted(inspect(connection).get_table_names())
    if version(connection):
        return []
    return sorted(set(inspect(connection).get_table_names()) & set(schema.metadata.tables))


def migrate(connection: Connection) -> None:
    """Bring the store to the newest schema. The caller holds the write lock."""
    before = version(connection)
    if before == newest_version():
        return
    for step in MIGRATIONS[before:]:
        step(connection)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {newest_version()}")
        return
    schema.metadata.create_all(connection, tables=[schema.stamp])
    connection.execute(delete(schema.stamp))
    connection.execute(insert(schema.stamp), {"version": newest_version()})
