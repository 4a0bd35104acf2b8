"""Jobs that several workers take in turn: each is done once, whoever dies in between.

    table = JobTable(store, "ratio")
    table.add({"a1b2": {"run_dir": "runs/a1b2"}})
    lease = table.claim(me, seconds=30)           # a job, a number, and a time until which it is mine
    table.renew([lease], seconds=30)              # the leases that were lost meanwhile
    table.finish(lease, "done", {"loss": 1.0})    # False: another one has it by now, and this result is void
    table.submit({"kind": "export"}, priority=9, needs=["1"])       # numbered by the table

Every claim of a job draws a higher number (a fencing token; Kleppmann 2016, "How to do distributed locking"),
and only the highest may say how the job ended. So a worker that was stopped for an hour and goes on can do no
harm.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update

from torchstone._errors import UsageError
from torchstone._registry import suggest
from torchstone.tracking import schema
from torchstone.tracking.database import Result
from torchstone.tracking.store import Store

WAITING, LEASED, DONE, FAILED, CANCELLED = JOB_STATUSES = ("waiting", "leased", "done", "failed", "cancelled")
OVER = (DONE, FAILED, CANCELLED)
_jobs = schema.jobs


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as the table has it."""

    queue: str
    job_id: str
    status: str
    order: dict[str, Any]
    """What a worker needs to know."""
    token: int
    tries: int
    """How often it was begun and not given back; that a worker died does not count."""
    owner: str | None
    leased_until: float | None
    not_before: float
    seconds: float
    """Time that claims which are over have spent on it."""
    result: dict[str, Any] | None
    priority: int = 0
    """The higher goes first; of equals the older."""
    needs: tuple[str, ...] = ()
    """Jobs of this queue that must be done before it."""
    stop: bool = False
    """Whether somebody asked for an end while it runs."""
    created: float | None = None
    began: float | None = None
    """When it was claimed first."""
    ended: float | None = None


@dataclass(frozen=True)
class Lease:
    """A claim on a job."""

    job: Job
    token: int

    @property
    def job_id(self) -> str:
        return self.job.job_id


def this_process() -> str:
    """A name for the owner of leases: machine, process, and when it began, for numbers are used again."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_dead(owner: str) -> bool:
    """Whether the process that `this_process` named is over. Of other machines nothing is known."""
    import psutil

    host, pid, began = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.2f}" != began or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class JobTable:
    """The jobs of one queue. Every method is one transaction; the clock is the store's, which all share."""

    def __init__(self, store: Store, queue: str, *, clock: Callable[[], float] | None = None) -> None:
        self.queue = queue
        self._database = store.database
        self._clock = clock

    def _now(self, connection: Connection) -> float:
        return self._database.now(connection) if self._clock is None else self._clock()

    def _write(self, work: Callable[[Connection], Result]) -> Result:
        return self._database.write(work, about=f"queue {self.queue}")

    def add(self, orders: Mapping[str, Mapping[str, Any]]) -> int:
        """Enter jobs in this order; one that is known keeps its state. How many are new."""

        def enter(connection: Connection) -> int:
            now, first = self._now(connection), self._next_place(connection)
            return sum(
                self._enter(connection, job_id, place, order, now)
                for place, (job_id, order) in enumerate(orders.items(), start=first)
            )

        return self._write(enter)

    def submit(
        self,
        order: Mapping[str, Any],
        *,
        priority: int = 0,
        needs: Iterable[str] = (),
        not_before: float = 0.0,
        and_then: Callable[[Connection, str], object] = lambda connection, job_id: None,
    ) -> str:
        """Enter one more job, numbered by the table; its id.

        and_then: something that must be written with it or not at all.
        """
        wanted = list(dict.fromkeys(needs))

        def enter(connection: Connection) -> str:
            known = set(
                connection.execute(select(_jobs.c.job_id).where(_jobs.c.queue == self.queue)).scalars()
            )
            if missing := [each for each in wanted if each not in known]:
                raise self._unknown(missing[0], known)
            place = self._next_place(connection)
            self._enter(
                connection, str(place), place, order, self._now(connection),
                priority=priority, needs=json.dumps(wanted), not_before=not_before,
            )  # fmt: skip
            and_then(connection, str(place))
            return str(place)

        return self._write(enter)

    def _next_place(self, connection: Connection) -> int:
        newest = select(func.coalesce(func.max(_jobs.c.place), 0)).where(_jobs.c.queue == self.queue)
        return int(connection.execute(newest).scalar_one()) + 1

    def _enter(
        self,
        connection: Connection,
        job_id: str,
        place: int,
        order: Mapping[str, Any],
        now: float,
        **more: Any,
    ) -> int:
        row = {
            "queue": self.queue, "job_id": job_id, "place": place, "status": WAITING, "created": now,
            "order": json.dumps(order), "token": 0, "tries": 0, "not_before": 0.0, "seconds": 0.0, **more,
        }  # fmt: skip
        return connection.execute(self._database.insert(_jobs).values(row).on_conflict_do_nothing()).rowcount

    def claim(
        self,
        owner: str,
        *,
        seconds: float,
        among: Iterable[str] | None = None,
        is_dead: Callable[[str], bool] = is_dead,
    ) -> Lease | None:
        """The first job that waits, or whose lease ran out or lost its owner; None where there is none.

        A job waits for those that it needs. One that was to be stopped when its worker died is cancelled.
        """
        wanted = None if among is None else set(among)

        def take(connection: Connection) -> Lease | None:
            now = self._now(connection)
            due = and_(_jobs.c.status == WAITING, _jobs.c.not_before <= now)
            names = ("job_id", "status", "owner", "leased_until", "needs", "stop", "began")
            free = select(*(_jobs.c[each] for each in names))
            free = free.where(_jobs.c.queue == self.queue, or_(due, _jobs.c.status == LEASED))
            # All of them now: what is written below must not move what is being read.
            for row in connection.execute(free.order_by(_jobs.c.priority.desc(), _jobs.c.place)).all():
                if wanted is not None and row.job_id not in wanted:
                    continue
                if row.status == LEASED and row.leased_until > now and not is_dead(row.owner):
                    continue
                if row.needs != "[]" and not self._are_done(connection, json.loads(row.needs)):
                    continue
                chosen = and_(_jobs.c.queue == self.queue, _jobs.c.job_id == row.job_id)
                if row.stop:
                    over = {"status": CANCELLED, "owner": None, "leased_until": None, "ended": now}
                    connection.execute(update(_jobs).where(chosen).values(**over))
                    continue
                job = _job(connection.execute(select(_jobs).where(chosen)).one())
                mine = {"status": LEASED, "owner": owner, "leased_until": now + seconds, "result": None,
                        "began": row.began or now}  # fmt: skip
                # A job whose worker died may be innocent of that: it goes on with the same try.
                counted = {"token": job.token + 1, "tries": job.tries + (job.status == WAITING)}
                connection.execute(update(_jobs).where(chosen).values(**mine, **counted))
                return Lease(job, job.token + 1)
            return None

        return self._write(take)

    def _are_done(self, connection: Connection, job_ids: list[str]) -> bool:
        done = select(func.count()).where(_jobs.c.queue == self.queue, _jobs.c.status == DONE)
        return connection.execute(done.where(_jobs.c.job_id.in_(job_ids))).scalar_one() == len(job_ids)

    def renew(self, leases: Iterable[Lease], *, seconds: float) -> list[Lease]:
        """Keep leases for longer; those that are another's by now."""
        held = list(leases)

        def keep(connection: Connection) -> list[Lease]:
            until = self._now(connection) + seconds
            return [
                each
                for each in held
                if not connection.execute(self._mine(each).values(leased_until=until)).rowcount
            ]

        return self._write(keep) if held else []

    def asked_to_stop(self, leases: Iterable[Lease]) -> list[Lease]:
        """Those whose jobs somebody cancelled meanwhile."""
        held = {each.job_id: each for each in leases}
        if not held:
            return []
        query = select(_jobs.c.job_id).where(_jobs.c.queue == self.queue, _jobs.c.stop != 0)
        query = query.where(_jobs.c.job_id.in_(held))
        return [
            held[each] for each in self._database.read(lambda found: found.execute(query).scalars().all())
        ]

    def finish(
        self, lease: Lease, status: str, result: Mapping[str, Any] | None = None, *, spent_s: float = 0.0
    ) -> bool:
        """Say how the job ended: done, failed or cancelled. False, and nothing kept: the lease was lost."""
        values = {"status": status, "result": None if result is None else json.dumps(result)}
        return self._end(lease, spent_s, lambda connection: values | {"ended": self._now(connection)})

    def give_back(
        self,
        lease: Lease,
        *,
        spent_s: float = 0.0,
        wait_s: float = 0.0,
        counts: bool = True,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        """Leave the job to the next claim, `wait_s` from now at the earliest; a try that does not count was
        not the job's own fault."""
        values: dict[str, Any] = {"status": WAITING, "result": None if result is None else json.dumps(result)}
        if not counts:
            values["tries"] = _jobs.c.tries - 1
        return self._end(
            lease, spent_s, lambda connection: values | {"not_before": self._now(connection) + wait_s}
        )

    def _end(self, lease: Lease, spent_s: float, values: Callable[[Connection], Mapping[str, Any]]) -> bool:
        def end(connection: Connection) -> bool:
            statement = self._mine(lease).values(
                **values(connection), owner=None, leased_until=None, seconds=_jobs.c.seconds + spent_s
            )
            return bool(connection.execute(statement).rowcount)

        return self._write(end)

    def _mine(self, lease: Lease) -> Any:
        return update(_jobs).where(
            _jobs.c.queue == self.queue,
            _jobs.c.job_id == lease.job_id,
            _jobs.c.token == lease.token,
            _jobs.c.status == LEASED,
        )

    def again(self, job_ids: Iterable[str]) -> int:
        """Failed and cancelled jobs wait once more, with all their tries; how many there were."""
        statement = (
            update(_jobs)
            .where(_jobs.c.queue == self.queue, _jobs.c.job_id.in_(list(job_ids)))
            .where(_jobs.c.status.in_([FAILED, CANCELLED]))
            .values(status=WAITING, tries=0, not_before=0.0, result=None, stop=0, ended=None)
        )
        return int(self._write(lambda connection: connection.execute(statement).rowcount))

    def cancel(self, job_id: str) -> str:
        """End a job that waits; ask the worker of one that runs to stop it. What it was before."""

        def end(connection: Connection) -> str:
            chosen = and_(_jobs.c.queue == self.queue, _jobs.c.job_id == job_id)
            status = connection.execute(select(_jobs.c.status).where(chosen)).scalar_one_or_none()
            if status == WAITING:
                values = {"status": CANCELLED, "ended": self._now(connection)}
                connection.execute(update(_jobs).where(chosen).values(**values))
            elif status == LEASED:
                connection.execute(update(_jobs).where(chosen).values(stop=1))
            return status or self.job(job_id).status

        return self._write(end)

    def standing(self) -> dict[str, tuple[str, float]]:
        """Status and seconds spent of every job, without reading the orders."""
        columns = [_jobs.c.job_id, _jobs.c.status, _jobs.c.seconds]
        query = select(*columns).where(_jobs.c.queue == self.queue).order_by(_jobs.c.place)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {row.job_id: (row.status, row.seconds) for row in rows}

    def job(self, job_id: str) -> Job:
        query = select(_jobs).where(_jobs.c.queue == self.queue, _jobs.c.job_id == job_id)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise self._unknown(job_id, self.standing())
        return _job(row)

    def _unknown(self, job_id: str, known: Iterable[str]) -> UsageError:
        return UsageError(f"there is no job {job_id!r} in {self.queue}", why=suggest(job_id, known))

    def jobs(self, job_ids: Iterable[str] | None = None) -> list[Job]:
        """In the order in which they were entered."""
        query = select(_jobs).where(_jobs.c.queue == self.queue).order_by(_jobs.c.place)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        wanted = None if job_ids is None else set(job_ids)
        return [_job(row) for row in rows if wanted is None or row.job_id in wanted]


def queues(store: Store) -> list[str]:
    """Names of the queues that have jobs."""
    query = select(_jobs.c.queue).distinct().order_by(_jobs.c.queue)
    return [row.queue for row in store.database.read(lambda connection: connection.execute(query).all())]


def _job(row: Row[Any]) -> Job:
    fields = dict(row._mapping)
    del fields["place"]
    result = fields["result"]
    return Job(
        **fields
        | {
            "order": json.loads(fields["order"]),
            "result": None if result is None else json.loads(result),
            "needs": tuple(json.loads(fields["needs"])),
            "stop": bool(fields["stop"]),
        }
    )
