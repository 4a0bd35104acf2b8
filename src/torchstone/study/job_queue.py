"""The job queue: trainings, evaluations, exports and retrainings that workers take in turn.

    queue = JobManager(Store.open("runs/store.db"))
    first = queue.submit_job("training", {"target": "zoo:gpt-nano", "data": "builtin:stdlib"}, priority=8)
    queue.submit_job("export", {"target": "runs/jobs/1"}, needs=[first])
    queue.get_job(first).status                    # waiting, running, done, failed, cancelled

A job is begun as often as it takes and ends exactly once (`tracking/job_table.py` says how). The queue serves
the processes of one machine; across machines Ray or Slurm.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import UsageError
from torchstone.study.kinds.registry import JOB_KINDS
from torchstone.tracking.job_log import JobLog, LogLine
from torchstone.tracking.job_table import CANCELLED, FAILED, LEASED, OVER, WAITING, JobTable, Lease
from torchstone.tracking.job_table import Job as Row
from torchstone.tracking.rows import iso
from torchstone.tracking.store import Store

QUEUE = "the queue"
"""No study is called so, for this is no name of one."""
RUNNING = "running"
STATUSES = (WAITING, RUNNING, "done", FAILED, CANCELLED)
LOWEST, DEFAULT, HIGHEST = 1, 5, 10
RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as people ask about it. Times are ISO 8601, UTC."""

    job_id: int
    kind: str
    status: str
    priority: int
    needs: tuple[int, ...]
    config: dict[str, Any]
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    not_before: str | None
    worker_id: str | None
    tries: int
    max_retries: int
    seconds: float
    run_dir: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    stopping: bool
    scheduled: dict[str, Any] | None
    """Of a job that a schedule made: its name, the time that was due, and how many fires it stands for."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class JobManager:
    """The queue of one store."""

    def __init__(self, store: Store | str | Path | None = None) -> None:
        self.store = store if isinstance(store, Store) else Store.open(store)
        self.table = JobTable(self.store, QUEUE)
        self.log = JobLog(self.store, QUEUE)

    def submit_job(
        self,
        job_type: str,
        config: Mapping[str, Any],
        priority: int = DEFAULT,
        max_retries: int = RETRIES,
        *,
        needs: Iterable[int] = (),
        not_before: float = 0.0,
    ) -> int:
        """Enter a job; its number. What it could not do is refused now.

        priority: 1 to 10; 10 goes first, then the oldest.
        max_retries: how often a job that failed is begun again.
        needs: jobs that must be done before.
        not_before: seconds since 1970, UTC.
        """
        order = self.order(job_type, config, max_retries) | JOB_KINDS.get(job_type).prepare(
            config, self.store
        )
        return int(
            self.table.submit(
                order,
                priority=within_range(priority),
                needs=[str(each) for each in needs],
                not_before=not_before,
            )
        )

    def order(self, job_type: str, config: Mapping[str, Any], max_retries: int = RETRIES) -> dict[str, Any]:
        """What every order holds, whatever the kind of job."""
        if max_retries < 0:
            raise UsageError(f"max_retries is {max_retries}", next="0 or more")
        root = self.store.folder or Path("runs").absolute()
        return {"kind": JOB_KINDS.get(job_type).name, "config": dict(config), "max_retries": max_retries,
                "cwd": str(Path.cwd()), "root": str(root)}  # fmt: skip

    def get_job(self, job_id: int | str) -> Job:
        return job_of(self.table.job(str(job_id)))

    def list_jobs(
        self, status: str | None = None, job_type: str | None = None, limit: int = 100
    ) -> list[Job]:
        """In the order in which they were entered, the newest `limit` of them."""
        if status is not None and status not in STATUSES:
            raise UsageError(f"there is no status {status!r}", next=f"choose one of: {', '.join(STATUSES)}")
        if job_type is not None:
            JOB_KINDS.get(job_type)  # a slip in it would find nothing, in silence
        found = [
            each
            for each in map(job_of, self.table.jobs())
            if status in (None, each.status) and job_type in (None, each.kind)
        ]
        return found[-limit:]

    def claim_job(self, worker_id: str, seconds: float = 3600.0) -> Lease | None:
        """For a worker of your own: a job, held for so long. `torchstone jobs worker` does this by itself."""
        return self.table.claim(worker_id, seconds=seconds)

    def update_job_status(self, lease: Lease, status: str, error_message: str | None = None) -> bool:
        """Say how a claimed job ended; False, and nothing kept, where it is another's by now."""
        if status not in OVER:
            raise UsageError(f"{status!r} is no end of a job", next=f"one of: {', '.join(OVER)}")
        error = None if error_message is None else {"what": error_message}
        return self.table.finish(lease, status, {"status": status, "result": None, "error": error})

    def cancel_job(self, job_id: int | str) -> bool:
        """End a job that waits, or have the worker of one that runs stop it. False: it was over."""
        cancelled = self.table.cancel(str(job_id)) not in OVER
        if cancelled:
            self.log.say(str(job_id), "info", "cancelled by a user")
        return cancelled

    def retry_job(self, job_id: int | str) -> bool:
        """A job that failed or was cancelled waits once more. False: it is in another state."""
        again = bool(self.table.again([str(job_id)]))
        if again:
            self.log.say(str(job_id), "info", "to be tried again")
        return again

    def log_job_message(self, job_id: int | str, level: str, message: str) -> None:
        self.log.say(str(job_id), level, message)

    def get_job_logs(self, job_id: int | str) -> list[LogLine]:
        return self.log.lines(self.table.job(str(job_id)).job_id)

    def get_queue_stats(self) -> dict[str, int]:
        counts = Counter(shown(status) for status, _ in self.table.standing().values())
        return {each: counts[each] for each in STATUSES}

    def pending(self) -> list[Row]:
        """Jobs that are not over and will be, without anybody's help: what they need can still be done."""
        found, hopeless = list[Row](), set[str]()
        for each in self.table.jobs():  # in the order in which they were entered, so after those they need
            if each.status in (FAILED, CANCELLED) or not hopeless.isdisjoint(each.needs):
                hopeless.add(each.job_id)
            elif each.status not in OVER:
                found.append(each)
        return found

    def why_waiting(self, job: Job) -> str | None:
        """What a job that waits is waiting for; None: for a worker."""
        if job.status != WAITING:
            return None
        for needed in map(self.get_job, job.needs):
            if needed.status != "done":
                how = "has" if needed.status == FAILED else "is"
                return f"job {needed.job_id} {how} {needed.status}"
        return f"until {job.not_before}" if job.not_before else None


def run_dir_of(row: Row) -> Path:
    """Where a job works: the folder that it names, else one by its number."""
    return Path(row.order.get("run_dir") or Path(row.order["root"]) / "jobs" / row.job_id)


def shown(status: str) -> str:
    return RUNNING if status == LEASED else status


def job_of(row: Row) -> Job:
    kept = row.result or {}
    return Job(
        job_id=int(row.job_id),
        kind=row.order["kind"],
        status=shown(row.status),
        priority=row.priority,
        needs=tuple(int(each) for each in row.needs),
        config=row.order["config"],
        created_at=_iso(row.created),
        started_at=_iso(row.began),
        completed_at=_iso(row.ended),
        not_before=_iso(row.not_before) if row.not_before > time.time() else None,
        worker_id=row.owner,
        tries=row.tries,
        max_retries=row.order["max_retries"],
        seconds=round(row.seconds, 3),
        run_dir=str(run_dir_of(row)),
        result=kept.get("result"),
        error=kept.get("error"),
        stopping=row.stop and row.status == LEASED,
        scheduled=row.order.get("scheduled"),
    )


def _iso(at: float | None) -> str | None:
    return None if at is None else iso(at)


def within_range(priority: int) -> int:
    if not LOWEST <= priority <= HIGHEST:
        raise UsageError(
            f"priority {priority} is out of range", next=f"from {LOWEST} to {HIGHEST}, the first"
        )
    return priority
