"""One worker at a table of jobs: it claims, starts, renews, and says how each job ended.

    class Cells(Session): ...                # which jobs, and what to do when one is done
    with session.leases.renewed():
        session.fill()                       # start jobs while there are slots
        session.collect()                    # what ended goes into the table

Cells of a study and jobs of the queue are worked on by this one piece. A worker holds a lease on each job and
renews it; when it dies its jobs are free again, their processes save and end, and the next worker goes on. A
result counts only from the holder of the newest lease.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchstone.study.executor import Executor, Running
from torchstone.study.leases import KeptLeases
from torchstone.study.slots import Wait
from torchstone.tracking.job_table import CANCELLED, DONE, FAILED, JobTable, Lease, this_process
from torchstone.train.signals import TRY_AGAIN

log = logging.getLogger(__name__)

LEASE_S = 30.0
LOCKED_S = 0.5
STOPPED = (TRY_AGAIN, 130, 143)
PAUSES_S: tuple[float, ...] = (5.0, 20.0, 60.0, 300.0)
"""Before a job that must try again (disk, lock, network) is tried again."""


@dataclass
class Working:
    """A job that this worker has begun."""

    lease: Lease
    running: Running
    began: float = field(default_factory=time.monotonic)
    stopped: bool = False
    cancelled: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Session:
    """One worker's jobs. A subclass says which are claimed, and what follows when one is over."""

    def __init__(self, table: JobTable, executor: Executor, lease_s: float = LEASE_S) -> None:
        self.table, self.executor, self.lease_s = table, executor, lease_s
        self.me = this_process()
        self.leases = KeptLeases(table, seconds=lease_s)
        self.under_way: list[Working] = []
        self.pauses_s = PAUSES_S

    # --- what a subclass decides ----------------------------------------------------------------

    def claim(self) -> Lease | None:
        return self.table.claim(self.me, seconds=self.lease_s)

    def order_of(self, lease: Lease) -> dict[str, Any]:
        """What the job's process is told."""
        return dict(lease.job.order)

    def most_tries(self, lease: Lease) -> int:
        """Claims that ended badly, after which the job has failed."""
        raise NotImplementedError

    def completed(self, each: Working, kept: Mapping[str, Any]) -> None:
        self.table.finish(each.lease, DONE, kept, spent_s=each.seconds)

    def failed(self, each: Working, kept: Mapping[str, Any]) -> None:
        log.warning("%s failed: %s", self._name(each.lease), (kept["error"] or {}).get("what"))
        self.table.finish(each.lease, FAILED, kept, spent_s=each.seconds)

    def pause_after_death_s(self, lease: Lease) -> float:
        return 0.0

    def pause_s(self, lease: Lease) -> float:
        """Longer with every try."""
        return self.pauses_s[min(lease.job.tries, len(self.pauses_s) - 1)]

    def begun(self, lease: Lease) -> None:
        """A job was started."""

    def ended(self, lease: Lease) -> None:
        """The table knows what became of it."""

    # --- starting -------------------------------------------------------------------------------

    @property
    def working(self) -> list[str]:
        return [each.lease.job_id for each in self.under_way]

    def fill(self) -> None:
        """Start jobs while there are slots, jobs that wait, and memory for them."""
        while len(self.under_way) < self.executor.slots:
            lease = self.claim()
            if lease is None:
                return
            if lease.job.tries >= self.most_tries(lease):
                self.give_up(lease)
                continue
            if not self._start(lease):
                return

    def _start(self, lease: Lease) -> bool:
        """Whether it began: else it, and those after it, must wait. The lease is kept meanwhile."""
        self.leases.keep(lease)
        running = self.executor.start(self.order_of(lease))
        if isinstance(running, Wait):
            log.info("%s waits: %s", self._name(lease), running.why)
            self.leases.let_go(lease)
            self.table.give_back(lease, wait_s=1.0, counts=False, result=lease.job.result)
            return False
        # This process may have stood still longer than the lease: its next claim would take this job.
        self.leases.renew([lease])
        self.under_way.append(Working(lease, running))
        self.begun(lease)
        return True

    def give_up(self, lease: Lease) -> None:
        last = lease.job.result or {}
        what = (last.get("error") or {}).get("what", "it did not end well")
        error = {"what": f"given up after {lease.job.tries} tries: {what}"}
        self.table.finish(lease, FAILED, {**last, "status": "failed", "error": error})

    def _name(self, lease: Lease) -> str:
        return str(lease.job.order.get("name", lease.job_id))

    # --- ending ---------------------------------------------------------------------------------

    def collect(self) -> int:
        """What ended since the last look goes into the table; how many jobs did."""
        before = len(self.under_way)
        for each in list(self.under_way):
            outcome = each.running.outcome()
            if outcome is None:
                if (self.leases.is_lost(each.lease) or each.cancelled) and not each.stopped:
                    self._stop(each, signal.SIGTERM)
                continue
            self.under_way.remove(each)
            self.leases.let_go(each.lease)
            self._settle(each, outcome)
            self.ended(each.lease)
        return before - len(self.under_way)

    def _settle(self, each: Working, outcome: Mapping[str, Any]) -> None:
        lease, spent = each.lease, each.seconds
        kept = {name: outcome.get(name) for name in ("status", "exit_code", "result", "error")}
        saved = outcome["status"] in ("interrupted", "died")
        if outcome["status"] == "completed":
            self.completed(each, kept)
        elif each.cancelled and (saved or outcome["exit_code"] in STOPPED):
            self.table.finish(lease, CANCELLED, kept, spent_s=spent)
        elif saved:
            pause = (
                self.pause_after_death_s(lease) if outcome["status"] == "died" and not each.stopped else 0.0
            )
            self.table.give_back(lease, spent_s=spent, wait_s=pause, counts=not each.stopped, result=kept)
        elif each.stopped and outcome["exit_code"] in STOPPED:  # before it began to train
            self.table.give_back(lease, spent_s=spent, counts=False, result=kept)
        elif (outcome.get("error") or {}).get("error") == "RunLocked":
            # The process of a worker that was killed is still saving.
            self.table.give_back(lease, spent_s=spent, wait_s=LOCKED_S, counts=False, result=kept)
        elif outcome["exit_code"] == TRY_AGAIN:
            self.table.give_back(lease, spent_s=spent, wait_s=self.pause_s(lease), result=kept)
        else:
            self.failed(each, kept)

    def stop_all(self, number: signal.Signals) -> None:
        for each in self.under_way:
            if not each.stopped:
                self._stop(each, number)

    def _stop(self, each: Working, number: signal.Signals) -> None:
        each.stopped = True
        each.running.stop(number)
