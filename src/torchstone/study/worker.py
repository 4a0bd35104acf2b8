"""A worker of the job queue: takes jobs, runs each in a process of its own, tells how it ended.

    with Store.open() as store:
        run_worker(JobManager(store), open_executor("local", jobs=1), drain=True)

Any number of workers may share a queue. One that is killed leaves nothing behind: its jobs are free at once,
for the store knows that their owner is gone, and their processes end with it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from torchstone._errors import TorchstoneError
from torchstone.study.cells import LOOK_S, Ending
from torchstone.study.executor import Executor
from torchstone.study.job_queue import JobManager, run_dir_of
from torchstone.study.schedule import TrainingScheduler
from torchstone.study.session import LEASE_S, Session, Working
from torchstone.tracking.job_table import WAITING, Lease
from torchstone.train.signals import SignalWatch, exit_code_of

Hear = Callable[[str, bool], None]
"""Told the number of a job, and whether it begins or its try is over."""
POLL_S = 1.0
NO_USE = (2, 3, 4, 5)
"""Exit codes that another try would only repeat: usage, trust, data, environment."""


class Jobs(Session):
    """One worker's jobs."""

    def __init__(
        self,
        queue: JobManager,
        executor: Executor,
        *,
        lease_s: float = LEASE_S,
        max_jobs: int | None = None,
        hear: Hear = lambda job_id, begins: None,
    ) -> None:
        super().__init__(queue.table, executor, lease_s)
        self.queue, self.left, self._hear = queue, max_jobs, hear

    def claim(self) -> Lease | None:
        if self.left is not None and self.left <= 0:
            return None
        lease = super().claim()
        if lease is not None and self.left is not None:
            self.left -= 1
        return lease

    def order_of(self, lease: Lease) -> dict[str, Any]:
        told = {
            "run_dir": str(run_dir_of(lease.job)),
            "store": self.queue.store.address,
            "token": lease.token,
        }
        return dict(lease.job.order) | told

    def most_tries(self, lease: Lease) -> int:
        return int(lease.job.order["max_retries"]) + 1

    def pause_after_death_s(self, lease: Lease) -> float:
        return self.pause_s(lease)

    def begun(self, lease: Lease) -> None:
        self._say(lease, "info", f"try {_tries(lease)} begins at worker {self.me}")
        self._hear(lease.job_id, True)

    def ended(self, lease: Lease) -> None:
        self._hear(lease.job_id, False)

    def completed(self, each: Working, kept: Mapping[str, Any]) -> None:
        super().completed(each, kept)
        self._say(each.lease, "info", f"done in {each.seconds:.1f} s")

    def failed(self, each: Working, kept: Mapping[str, Any]) -> None:
        lease, what = each.lease, (kept["error"] or {}).get("what") or "its verdict is fail"
        left = self.most_tries(lease) - _tries(lease)
        if left <= 0 or kept["exit_code"] in NO_USE:
            super().failed(each, kept)
            self._say(lease, "error", f"failed: {what}")
            return
        pause = self.pause_s(lease)
        self.table.give_back(lease, spent_s=each.seconds, wait_s=pause, result=kept)
        self._say(lease, "warning", f"failed, is tried again in {pause:g} s: {what}")

    def give_up(self, lease: Lease) -> None:
        super().give_up(lease)
        self._say(lease, "error", f"given up after {lease.job.tries} tries")

    def look_for_cancellations(self) -> None:
        asked = {each.job_id for each in self.table.asked_to_stop(each.lease for each in self.under_way)}
        for each in self.under_way:
            each.cancelled = each.cancelled or each.lease.job_id in asked

    def _say(self, lease: Lease, level: str, message: str) -> None:
        """A word for the log; that it cannot be kept is no reason to stop."""
        try:
            self.queue.log.say(lease.job_id, level, message)
        except TorchstoneError:
            return


def _tries(lease: Lease) -> int:
    """Which try this claim is; the first is 1."""
    return lease.job.tries + (lease.job.status == WAITING)


def run_worker(
    queue: JobManager,
    executor: Executor,
    *,
    max_jobs: int | None = None,
    poll_interval: float = POLL_S,
    drain: bool = False,
    lease_s: float = LEASE_S,
    pauses_s: tuple[float, ...] | None = None,
    hear: Hear = lambda job_id, begins: None,
) -> Ending:
    """Work until a signal, until `max_jobs` were begun, or with `drain` until nothing is left to do.

    Schedules that are due are turned into jobs meanwhile.
    """
    session = Jobs(queue, executor, lease_s=lease_s, max_jobs=max_jobs, hear=hear)
    session.pauses_s = pauses_s or session.pauses_s
    schedules, looked = TrainingScheduler(queue), -poll_interval
    with SignalWatch() as watch, session.leases.renewed():
        while True:
            due = time.monotonic() - looked >= poll_interval
            if watch.received is not None:
                session.stop_all(signal.SIGTERM)
            elif due:
                looked = time.monotonic()
                schedules.check_due_schedules()
                session.look_for_cancellations()
                session.fill()
            if session.collect() and watch.received is None:
                session.fill()
            if not session.under_way:
                if watch.received is not None:
                    return Ending(reason=watch.received.name, exit_code=exit_code_of(watch.received))
                if session.left == 0:
                    return Ending(reason="as many jobs were begun as were asked for", exit_code=0)
                if drain and due and not queue.pending():
                    return Ending(reason="nothing is left to do", exit_code=0)
            time.sleep(LOOK_S if session.under_way else poll_interval)
