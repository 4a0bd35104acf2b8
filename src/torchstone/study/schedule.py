"""Jobs that come again by the clock: cron expressions, in a time zone, each fire one job.

    scheduler = TrainingScheduler(queue)
    scheduler.create_schedule("nightly", "retraining", {"model": "notes@production"}, "0 2 * * *")
    scheduler.check_due_schedules()                # what workers do while they wait: the jobs that were due

Expressions have the five fields of cron, read by cronsim, which follows Debian's cron: where both the day of
the month and that of the week are given, either will do. When clocks go forward, jobs of a fixed time that
would fall into the gap run once right after it; when they go back, such jobs run once, and those of every
hour run in every hour that passes. Fires that were missed while no worker ran become one job, which says for
how many it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection, Row, delete, select, update

from torchstone._errors import UsageError
from torchstone._optional import require
from torchstone._registry import suggest
from torchstone.study.job_queue import DEFAULT, RETRIES, JobManager, within_range
from torchstone.study.kinds.registry import JOB_KINDS
from torchstone.tracking import schema
from torchstone.tracking.rows import iso

MOST_COUNTED = 1000
"""Missed fires that are counted; more are told as so many."""
_table = schema.schedules


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule as people ask about it. Times are ISO 8601, UTC."""

    name: str
    kind: str
    cron: str
    timezone: str
    config: dict[str, Any]
    priority: int
    enabled: bool
    next_run: str | None
    last_run: str | None
    last_job: int | None
    missed: int
    """Fires so far that no job was made for, because no worker ran."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Gone(Exception):
    """Another worker has turned this fire into a job."""


class TrainingScheduler:
    """The schedules of one queue. The clock is the store's, which all workers share."""

    def __init__(self, queue: JobManager, *, clock: Callable[[], float] | None = None) -> None:
        self.queue, self._clock = queue, clock
        self._database = queue.store.database

    def create_schedule(
        self,
        name: str,
        job_type: str,
        config: Mapping[str, Any],
        schedule_expr: str,
        priority: int = DEFAULT,
        *,
        timezone: str = "UTC",
        max_retries: int = RETRIES,
    ) -> Schedule:
        """Enter a schedule; the job's configuration is tried now, and read anew at every fire."""
        JOB_KINDS.get(job_type).prepare(config, self.queue.store)
        order = self.queue.order(job_type, config, max_retries)
        row = {
            "queue": self.queue.table.queue, "name": name, "cron": schedule_expr, "timezone": timezone,
            "order": json.dumps(order), "priority": within_range(priority), "enabled": 1, "last_run": None,
            "last_job": None, "missed": 0,
        }  # fmt: skip

        def enter(connection: Connection) -> None:
            now = self._now(connection)
            timed = row | {"created": now, "next_run": next_fire(schedule_expr, timezone, now)}
            made = connection.execute(self._database.insert(_table).values(timed).on_conflict_do_nothing())
            if not made.rowcount:
                raise UsageError(
                    f"there is a schedule {name!r} already", next="give another name, or delete it"
                )

        self._write(enter)
        return self.get_schedule(name)

    def check_due_schedules(self) -> list[int]:
        """Make a job of every schedule that is due; their numbers. A fire becomes one job, whoever looks."""

        def look(connection: Connection) -> tuple[float, Sequence[Row[Any]]]:
            now = self._now(connection)
            due = select(_table).where(self._ours(), _table.c.enabled != 0, _table.c.next_run <= now)
            return now, connection.execute(due).all()

        now, rows = self._database.read(look)
        return [job_id for row in rows if (job_id := self._fire(row, now)) is not None]

    def _fire(self, row: Row[Any], now: float) -> int | None:
        times = fires(row.cron, row.timezone, row.next_run)
        missed = 0
        while (following := next(times)) <= now and missed < MOST_COUNTED:
            missed += 1
        if following <= now:
            following = next_fire(row.cron, row.timezone, now)
        told = {"schedule": row.name, "due": iso(row.next_run), "missed": missed}
        order = json.loads(row.order) | {"unprepared": True, "scheduled": told}

        def advance(connection: Connection, job_id: str) -> None:
            mine = update(_table).where(self._ours(row.name), _table.c.next_run == row.next_run)
            values = {
                "next_run": following,
                "last_run": now,
                "last_job": job_id,
                "missed": row.missed + missed,
            }
            if not connection.execute(mine.where(_table.c.enabled != 0).values(**values)).rowcount:
                raise _Gone

        try:
            return int(self.queue.table.submit(order, priority=row.priority, and_then=advance))
        except _Gone:
            return None

    def list_schedules(self, enabled_only: bool = False) -> list[Schedule]:
        query = select(_table).where(self._ours()).order_by(_table.c.name)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_schedule(row) for row in rows if row.enabled or not enabled_only]

    def get_schedule(self, name: str) -> Schedule:
        found = {each.name: each for each in self.list_schedules()}
        if name not in found:
            raise UsageError(f"there is no schedule {name!r}", why=suggest(name, found),
                             next="torchstone jobs schedule list")  # fmt: skip
        return found[name]

    def enable_schedule(self, name: str) -> Schedule:
        """From now on; what was due while it was off stays undone."""
        found = self.get_schedule(name)

        def turn_on(connection: Connection) -> None:
            following = next_fire(found.cron, found.timezone, self._now(connection))
            connection.execute(update(_table).where(self._ours(name)).values(enabled=1, next_run=following))

        if not found.enabled:
            self._write(turn_on)
        return self.get_schedule(name)

    def disable_schedule(self, name: str) -> Schedule:
        self.get_schedule(name)
        self._write(lambda found: found.execute(update(_table).where(self._ours(name)).values(enabled=0)))
        return self.get_schedule(name)

    def delete_schedule(self, name: str) -> None:
        """Jobs that it made stay."""
        self.get_schedule(name)
        self._write(lambda found: found.execute(delete(_table).where(self._ours(name))))

    def _ours(self, name: str | None = None) -> Any:
        mine = _table.c.queue == self.queue.table.queue
        return mine if name is None else mine & (_table.c.name == name)

    def _now(self, connection: Connection) -> float:
        return self._database.now(connection) if self._clock is None else self._clock()

    def _write(self, work: Callable[[Connection], Any]) -> None:
        self._database.write(work, about=f"queue {self.queue.table.queue}")


def fires(cron: str, timezone: str, after: float) -> Iterator[float]:
    """Times at which the expression fires, later than `after`, in seconds since 1970."""
    cronsim = require("cronsim", "schedule")
    if len(cron.split()) != 5:
        raise UsageError(
            f"{cron!r} has {len(cron.split())} fields",
            why="cron has five: minute, hour, day of the month, month, day of the week",
            next="'0 2 * * *' is two o'clock every night",
        )  # fmt: skip
    try:
        zone = ZoneInfo(timezone)
        found = cronsim.CronSim(cron, datetime.fromtimestamp(after, zone))
    except cronsim.CronSimError as error:
        raise UsageError(f"{cron!r} is no cron expression", why=str(error)) from None
    except (ZoneInfoNotFoundError, ValueError):
        raise UsageError(f"there is no time zone {timezone!r}", next="such as UTC or Europe/Berlin") from None
    return (moment.timestamp() for moment in found)


def next_fire(cron: str, timezone: str, after: float) -> float:
    for moment in fires(cron, timezone, after):
        return moment
    raise UsageError(f"{cron!r} never fires", why="no day of the next 50 years fits")


def _schedule(row: Row[Any]) -> Schedule:
    order = json.loads(row.order)
    return Schedule(
        name=row.name,
        kind=order["kind"],
        cron=row.cron,
        timezone=row.timezone,
        config=order["config"],
        priority=row.priority,
        enabled=bool(row.enabled),
        next_run=iso(row.next_run) if row.enabled else None,
        last_run=None if row.last_run is None else iso(row.last_run),
        last_job=None if row.last_job is None else int(row.last_job),
        missed=row.missed,
    )
