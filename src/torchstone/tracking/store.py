"""The experiment store: runs, metric rows, events and check reports, in one SQLite file or in PostgreSQL.

    store = Store.open("runs/store.db")
    store.start_run("a1", name="gpt-nano", kind="train", run_dir="runs/a1", config={})
    store.log_rows("a1", [MetricRow("train/loss", 1, 3.2)])
    store.finish_run("a1", "completed", {"steps": 1})

A metric row (run, key, step) exists once; logging it again replaces its value. Many processes may write at
once. During training, `writer.MetricWriter` stands between the step and the store.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from torchstone._errors import UsageError
from torchstone._registry import suggest
from torchstone.tracking import schema
from torchstone.tracking.database import Database
from torchstone.tracking.rows import Event, MetricRow, RunRow
from torchstone.tracking.sqlite_database import open_sqlite

STATUSES = ("running", "completed", "interrupted", "failed")
Direction = Literal["min", "max"]


def default_store(run_dir: Path | str | None = None) -> str:
    """`TORCHSTONE_STORE`, else `store.db` beside the run folders."""
    if named := os.environ.get("TORCHSTONE_STORE"):
        return named
    return str((Path(run_dir).absolute().parent if run_dir else Path("runs")) / "store.db")


class Store:
    """Open one with `Store.open`; safe to use from several threads, processes and after a fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keep_metric, self._keep_last = _upserts(database)

    @classmethod
    def open(
        cls, url_or_path: str | Path | None = None, *, readonly: bool = False, patience_s: float = 60.0
    ) -> Store:
        """Open (and create, unless `readonly`) a store: None for the default, or its address.

        An address is a path, `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE` (extra `[postgres]`). A
        busy store is waited for up to `patience_s`. `readonly` leaves nothing behind, not even for a moment.
        """
        address = str(default_store() if url_or_path is None else url_or_path)
        return cls(open_database(address, readonly=readonly, patience_s=patience_s))

    @property
    def address(self) -> str:
        """Opens this store again, from another process too."""
        return self._database.address

    @property
    def where(self) -> str:
        """What messages and records call it; a password is left out."""
        return self._database.where

    @property
    def has_password(self) -> bool:
        """Whether the address holds a secret."""
        return self._database.has_password

    @property
    def folder(self) -> Path | None:
        """The folder that holds it; None: it is no file."""
        return self._database.folder

    @property
    def database(self) -> Database:
        """For tables beside those of runs, as `job_table.py` has."""
        return self._database

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Runs

    def start_run(
        self,
        run_id: str,
        *,
        name: str,
        kind: str,
        run_dir: str | Path,
        config: Mapping[str, Any] | None = None,
        started: float | None = None,
    ) -> None:
        """Enter a run as `running`, since `started` or now; a run that is continued keeps its first start."""
        fresh = {
            "name": name,
            "kind": kind,
            "status": "running",
            "run_dir": str(run_dir),
            "ended": None,
            "config": _json(config or {}),
        }
        row = {
            "run_id": run_id,
            "started": time.time() if started is None else started,
            "summary": "{}",
            **fresh,
        }
        statement = (
            self._database.insert(schema.runs)
            .values(row)
            .on_conflict_do_update(index_elements=["run_id"], set_=fresh)
        )
        self._database.write(lambda connection: connection.execute(statement), about=run_id)

    def finish_run(
        self,
        run_id: str,
        status: str,
        summary: Mapping[str, Any] | None = None,
        *,
        ended: float | None = None,
    ) -> None:
        """Note how a run ended, at `ended` or now."""
        if status not in STATUSES:
            raise UsageError(f"there is no status {status!r}", next=f"use one of: {', '.join(STATUSES)}")
        ended = None if status == "running" else time.time() if ended is None else ended
        statement = (
            update(schema.runs)
            .where(schema.runs.c.run_id == run_id)
            .values(status=status, ended=ended, summary=_json(summary or {}))
        )
        touched = self._database.write(
            lambda connection: connection.execute(statement).rowcount, about=run_id
        )
        if touched == 0:
            raise self._unknown(run_id)

    def remove_run(self, run_id: str) -> None:
        """Forget a run with its rows, events and checks; its files are not the store's (see `removal.py`)."""
        statement = delete(schema.runs).where(schema.runs.c.run_id == run_id)
        if not self._database.write(lambda connection: connection.execute(statement).rowcount, about=run_id):
            raise self._unknown(run_id)

    def adopt(self, other: Store, run_id: str) -> None:
        """Take a run over from another store, with rows, events and checks; what was here is replaced."""
        tables = [schema.runs, schema.metrics, schema.last_values, schema.events, schema.check_reports]
        tables.append(schema.checks)
        found = {table: other._all(select(table).where(table.c.run_id == run_id)) for table in tables}
        if not found[schema.runs]:
            raise other._unknown(run_id)

        def keep(connection: Connection) -> None:
            connection.execute(delete(schema.runs).where(schema.runs.c.run_id == run_id))
            for table, rows in found.items():
                values = [dict(row._mapping) for row in rows]
                for each in values:
                    each.pop("event_id", None)
                if values:
                    connection.execute(insert(table), values)

        self._database.write(keep, about=run_id)

    def runs(self, *, kind: str | None = None, limit: int | None = None) -> list[RunRow]:
        """Newest first."""
        newest = schema.runs.c.started.desc()
        query = select(schema.runs).order_by(newest, schema.runs.c.run_id.desc()).limit(limit)
        if kind is not None:
            query = query.where(schema.runs.c.kind == kind)
        return [_run_row(row) for row in self._all(query)]

    def run(self, run_id: str) -> RunRow:
        """One run, by its id or by the beginning of an id that is unique."""
        exact = self._all(select(schema.runs).where(schema.runs.c.run_id == run_id))
        if exact:
            return _run_row(exact[0])
        beginning = func.substr(schema.runs.c.run_id, 1, len(run_id)) == run_id
        near = self._all(select(schema.runs).where(beginning)) if run_id else []
        if len(near) == 1:
            return _run_row(near[0])
        if near:
            names = ", ".join(row.run_id for row in near[:5])
            raise UsageError(f"{len(near)} runs begin with {run_id!r}", next=f"write one in full: {names}")
        raise self._unknown(run_id)

    def _unknown(self, run_id: str) -> UsageError:
        known = [row.run_id for row in self._all(select(schema.runs.c.run_id))]
        return UsageError(
            f"there is no run {run_id!r} in this store",
            where=self.where,
            why=suggest(run_id, known),
            next="torchstone runs list",
        )

    # Metrics

    def log_rows(self, run_id: str, rows: Iterable[MetricRow]) -> None:
        """Keep `rows`, all or none; a row that is already there gets the new value."""
        now = time.time()
        newest: dict[str, dict[str, Any]] = {}
        records = []
        for key, step, value, at in rows:
            record = {"run_id": run_id, "key": key, "step": step, "value": _stored(value), "at": at or now}
            records.append(record)
            if key not in newest or step >= newest[key]["step"]:
                newest[key] = record
        if not records:
            return

        def keep(connection: Connection) -> None:
            connection.execute(self._keep_metric, records)
            connection.execute(self._keep_last, list(newest.values()))

        try:
            self._database.write(keep, about=run_id)
        except IntegrityError as error:
            if "foreign key" not in str(error.orig).lower():
                raise
            raise self._unknown(run_id) from error

    def metrics(self, run_id: str, key: str | None = None, after: int | None = None) -> list[MetricRow]:
        """Rows in the order of key and step; of one metric, and beyond step `after`, if these are given."""
        table = schema.metrics
        query = select(table.c.key, table.c.step, table.c.value, table.c.at).where(table.c.run_id == run_id)
        if key is not None:
            query = query.where(table.c.key == key)
        if after is not None:
            query = query.where(table.c.step > after)
        return [_metric_row(row) for row in self._all(query.order_by(table.c.key, table.c.step))]

    def count_rows(self, run_id: str, through: int | None = None) -> dict[str, int]:
        """Rows of each metric, of all steps or `through` one, without reading them."""
        table = schema.metrics
        query = (
            select(table.c.key, func.count().label("rows"))
            .where(table.c.run_id == run_id)
            .group_by(table.c.key)
        )
        if through is not None:
            query = query.where(table.c.step <= through)
        return {row.key: row.rows for row in self._all(query)}

    def last_values(self, run_ids: Sequence[str]) -> dict[str, dict[str, MetricRow]]:
        """The row of the highest step per run and key, without reading the curves."""
        table = schema.last_values
        query = select(table.c.run_id, table.c.key, table.c.step, table.c.value, table.c.at)
        found: dict[str, dict[str, MetricRow]] = {run_id: {} for run_id in run_ids}
        for row in self._all(query.where(table.c.run_id.in_(run_ids))):
            found[row.run_id][row.key] = _metric_row(row[1:])
        return found

    def best(self, run_id: str, key: str, direction: Direction = "min") -> MetricRow | None:
        """The best row of a metric, the earliest of equals; NaN is never best."""
        table = schema.metrics
        order = table.c.value.asc() if direction == "min" else table.c.value.desc()
        query = (
            select(table.c.key, table.c.step, table.c.value, table.c.at)
            .where(table.c.run_id == run_id, table.c.key == key, table.c.value.is_not(None))
            .order_by(order, table.c.step)
            .limit(1)
        )
        rows = self._all(query)
        return _metric_row(rows[0]) if rows else None

    def truncate_after(self, run_id: str, step: int) -> int:
        """Forget rows beyond `step`, which a resumed run is about to produce again; how many there were."""
        table, last = schema.metrics, schema.last_values

        def cut(connection: Connection) -> int:
            gone = connection.execute(
                delete(table).where(table.c.run_id == run_id, table.c.step > step)
            ).rowcount
            connection.execute(delete(last).where(last.c.run_id == run_id))
            newest = (
                select(table.c.key, func.max(table.c.step).label("step"))
                .where(table.c.run_id == run_id)
                .group_by(table.c.key)
                .subquery()
            )
            rows = select(table).join(
                newest,
                (table.c.run_id == run_id) & (table.c.key == newest.c.key) & (table.c.step == newest.c.step),
            )
            connection.execute(insert(last).from_select([column.name for column in table.c], rows))
            return gone

        return self._database.write(cut, about=run_id)

    # Events and checks

    def add_event(self, run_id: str, kind: str, data: Mapping[str, Any] | None = None) -> None:
        row = {"run_id": run_id, "at": time.time(), "kind": kind, "data": _json(data or {})}
        self._insert_for(run_id, [(schema.events, [row])])

    def events(self, run_id: str) -> list[Event]:
        table = schema.events
        query = select(table).where(table.c.run_id == run_id).order_by(table.c.at, table.c.event_id)
        return [Event(row.kind, row.at, json.loads(row.data)) for row in self._all(query)]

    def events_of(self, *kinds: str) -> dict[str, list[Event]]:
        """Events of these kinds by run, oldest first; runs without one are left out."""
        table = schema.events
        query = select(table).where(table.c.kind.in_(kinds)).order_by(table.c.at, table.c.event_id)
        found: dict[str, list[Event]] = {}
        for row in self._all(query):
            found.setdefault(row.run_id, []).append(Event(row.kind, row.at, json.loads(row.data)))
        return found

    def add_checks(self, run_id: str, report: Mapping[str, Any]) -> None:
        """Keep a `torchstone.check/1` report; a later one of the same run replaces it."""
        head = {key: value for key, value in report.items() if key != "checks"}
        top = {"run_id": run_id, "verdict": report["verdict"], "at": time.time(), "head": _json(head)}
        rows = [
            {
                "run_id": run_id,
                "check_id": record["id"],
                "place": place,
                "status": record["status"],
                "record": _json(record),
            }
            for place, record in enumerate(report["checks"])
        ]
        self._insert_for(run_id, [(schema.check_reports, [top]), (schema.checks, rows)], replace=True)

    def check_report(self, run_id: str) -> dict[str, Any] | None:
        """The report as `add_checks` got it; None if this run has none."""
        heads = self._all(select(schema.check_reports.c.head).where(schema.check_reports.c.run_id == run_id))
        if not heads:
            return None
        table = schema.checks
        records = self._all(select(table.c.record).where(table.c.run_id == run_id).order_by(table.c.place))
        return json.loads(heads[0].head) | {"checks": [json.loads(row.record) for row in records]}

    def _insert_for(
        self, run_id: str, batches: list[tuple[Table, list[dict[str, Any]]]], *, replace: bool = False
    ) -> None:
        def keep(connection: Connection) -> None:
            for table, rows in batches:
                if replace:
                    connection.execute(delete(table).where(table.c.run_id == run_id))
                if rows:
                    connection.execute(insert(table), rows)

        try:
            self._database.write(keep, about=run_id)
        except IntegrityError as error:
            if "foreign key" not in str(error.orig).lower():
                raise
            raise self._unknown(run_id) from error

    def _all(self, query: Any) -> Sequence[Row[Any]]:
        return self._database.read(lambda connection: connection.execute(query).all())


def open_database(address: str, *, readonly: bool, patience_s: float) -> Database:
    """The database that an address names, with the tables of the store in it."""
    if address.startswith("postgres"):
        from torchstone.tracking.postgres_database import SCHEMES, open_postgres

        if address.startswith(SCHEMES):
            return open_postgres(address, readonly=readonly, patience_s=patience_s)
    path = address.removeprefix("sqlite:///")
    if "://" in path:
        raise UsageError(
            f"no store can be opened at a {path.split(':')[0]} address",
            next="give a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE",
        )
    return open_sqlite(Path(path), readonly=readonly, patience_s=patience_s)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _stored(value: float) -> float | None:
    return None if math.isnan(value) else value


def _metric_row(row: Sequence[Any]) -> MetricRow:
    key, step, value, at = row
    return MetricRow(key, step, math.nan if value is None else value, at)


def _run_row(row: Row[Any]) -> RunRow:
    fields = dict(row._mapping)
    return RunRow(
        **fields | {"config": json.loads(fields["config"]), "summary": json.loads(fields["summary"])}
    )


def _upserts(database: Database) -> tuple[Any, Any]:
    """Statements that keep a metric row, and the newest row of a metric."""
    metric = database.insert(schema.metrics)
    last = database.insert(schema.last_values)
    return (
        metric.on_conflict_do_update(
            index_elements=["run_id", "key", "step"],
            set_={name: metric.excluded[name] for name in ("value", "at")},
        ),
        last.on_conflict_do_update(
            index_elements=["run_id", "key"],
            set_={name: last.excluded[name] for name in ("step", "value", "at")},
            # Rows may arrive late (another process, a spill file): only a later step is newer.
            where=last.excluded.step >= schema.last_values.c.step,
        ),
    )
