"""Metrics on their way from the training step to the store, without ever slowing or failing the step.

    writer = MetricWriter(store, run_id, spill=folder.path / "metrics.spill.jsonl")
    writer.log(step, {"train/loss": loss})      # a few microseconds, no input or output
    report = writer.close()                      # drains; says what was written, spilled and lost

A daemon thread writes batches every quarter of a second. A process that is killed loses at most the batch
that was not yet written. If the store does not answer, rows wait in memory, then in the spill file; if that
fails too, rows are dropped and counted. Give it plain numbers: a tensor on an accelerator would make `log`
wait for the device, so the caller converts it when the time suits.

A process forked while a writer is open must not write through it: there `log` does nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import StatementError

from torchstone._errors import TorchstoneError
from torchstone.tracking import spill as spill_file
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

logger = logging.getLogger(__name__)

_BATCH = 5_000
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class WriterReport:
    """What became of the rows, as `close` tells it."""

    written: int
    """Rows in the store."""
    spilled: int
    """Rows in the spill file; they enter the store when the run is opened again."""
    lost: int
    """Rows that nothing could hold."""
    rejected: int
    """Values that were not numbers."""
    error: str = ""
    """The last failure of the store, if there was one."""

    @property
    def complete(self) -> bool:
        return not (self.spilled or self.lost or self.rejected)


class MetricWriter:
    """One per run and process. `resume_after` forgets the rows beyond the checkpoint a run resumes from."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        spill: Path | None = None,
        resume_after: int | None = None,
        every_s: float = 0.25,
        max_rows: int = 100_000,
    ) -> None:
        self.run_id = run_id
        self._store = store
        self._spill = spill
        self._every_s = every_s
        self._max_rows = max_rows
        self._rows: deque[MetricRow] = deque()
        self._in_hand: list[MetricRow] = []
        self._written = self._spilled = self._lost = self._rejected = 0
        self._error = ""
        self._copied = 0
        """Of the rows that wait, the first so many are in the spill file too."""
        self._has_copies = False
        self._closing = False
        self._foreign = False
        self._wake = threading.Event()
        self._answer = threading.Condition()
        self._asked = self._answered = 0
        if spill is not None:
            spill_file.absorb(store, run_id, spill)
        if resume_after is not None:
            store.truncate_after(run_id, resume_after)
        self._thread = threading.Thread(target=self._work, name="torchstone-metrics", daemon=True)
        self._thread.start()
        _OPEN.add(self)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step. Never raises, never waits."""
        if self._closing or self._foreign:
            self._lost += 0 if self._foreign else len(values)
            return
        rows = self._rows
        if len(rows) >= self._max_rows:
            self._lost += len(values)
            return
        now = time.time()
        for key, value in values.items():
            try:
                rows.append(MetricRow(key, int(step), float(value), now))
            except (TypeError, ValueError, OverflowError, RuntimeError):
                self._reject(key, step, value)

    def _reject(self, key: object, step: object, value: object) -> None:
        self._rejected += 1
        if self._rejected == 1:
            logger.warning("not a metric: %r at step %r is %s", key, step, type(value).__name__)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything logged so far outlives this process: in the store, else in the spill file.

        A store that is known to fail is not waited for; one that does not answer, for `timeout_s`. False if
        neither takes the rows, which then wait in memory.
        """
        if self._foreign or self._closing:
            return False
        with self._answer:
            self._asked += 1
            ticket = self._asked
            self._wake.set()
            self._answer.wait_for(lambda: self._answered >= ticket or self._error, timeout_s)
            return self._answered >= ticket or self._copy_aside()

    def _copy_aside(self) -> bool:
        """Put what waits into the spill file; it goes on waiting. Rows reach the store twice, kept once."""
        waiting = [*self._in_hand, *self._rows]
        if self._spill is None:
            return False
        try:
            spill_file.append(self._spill, waiting[self._copied :])
        except (OSError, ValueError) as error:
            logger.warning("metrics are in memory alone: %s", error)
            return False
        self._copied = len(waiting)
        self._has_copies = True
        return True

    def close(self, timeout_s: float = 10.0) -> WriterReport:
        """Drain, and say what became of the rows. What the store does not take in time is spilled."""
        if not self._foreign and not self._closing:
            self._closing = True
            self._wake.set()
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                # Stuck inside the store. Its batch may still arrive there: twice is as good as once.
                self._error = self._error or f"the store did not answer within {timeout_s:g} s"
                rows = [*self._in_hand, *self._take(self._max_rows * 2)]
                self._spilled += self._copied
                self._set_aside(rows[self._copied :])
            _OPEN.discard(self)
        report = WriterReport(self._written, self._spilled, self._lost, self._rejected, self._error)
        if not report.complete:
            logger.warning(
                "metrics of %s: %d in the store, %d in %s, %d lost, %d not numbers. %s",
                *(self.run_id, report.written, report.spilled, self._spill),
                *(report.lost, report.rejected, report.error),
            )
        return report

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        pause = self._every_s
        while not self._closing:
            self._wake.wait(pause)
            self._wake.clear()
            asked = self._asked
            failed = not self._drain()
            with self._answer:
                self._answered = self._answered if failed else asked
                self._answer.notify_all()
            pause = min(pause * 2, _LONGEST_PAUSE_S) if failed else self._every_s
            if failed and len(self._rows) + len(self._in_hand) >= self._max_rows // 2:
                self._give_up()
        if not self._drain():
            self._give_up()
        self._recover_spilled()

    def _drain(self) -> bool:
        """Write all waiting rows; False when the store did not take a batch, which then stays in hand."""
        while True:
            with self._answer:  # `_copy_aside` sees each row in one place
                self._in_hand += self._take(_BATCH - len(self._in_hand))
            if not self._in_hand:
                return True
            try:
                self._written += self._keep(self._in_hand)
            # The one place where any failure is taken: a step must not die of its bookkeeping.
            except Exception as error:
                if not self._error:
                    logger.warning("metrics wait in memory: %s", error)
                self._error = str(error).partition("\n")[0] or type(error).__name__
                return False
            with self._answer:
                self._copied = max(self._copied - len(self._in_hand), 0)
                self._in_hand = []
            self._error = ""

    def _keep(self, rows: list[MetricRow]) -> int:
        """Store `rows`; how many. One that the database cannot hold must not stop the others."""
        try:
            self._store.log_rows(self.run_id, rows)
        except TorchstoneError:
            raise
        except (StatementError, ValueError, TypeError, OverflowError):
            if len(rows) == 1:
                self._reject(*rows[0][:3])
                return 0
            half = len(rows) // 2
            return self._keep(rows[:half]) + self._keep(rows[half:])
        return len(rows)

    def _take(self, most: int) -> list[MetricRow]:
        taken: list[MetricRow] = []
        while len(taken) < most:
            try:
                taken.append(self._rows.popleft())
            except IndexError:  # asking first and taking then would not do: `close` takes too
                break
        return taken

    def _give_up(self) -> None:
        with self._answer:
            rows, there = [*self._in_hand, *self._take(self._max_rows * 2)], self._copied
            self._in_hand, self._copied = [], 0
        self._spilled += there
        self._set_aside(rows[there:])

    def _set_aside(self, rows: list[MetricRow]) -> None:
        if not rows:
            return
        try:
            if self._spill is None:
                raise FileNotFoundError("this writer has no spill file")
            spill_file.append(self._spill, rows)
            self._spilled += len(rows)
        except (OSError, ValueError) as error:
            self._lost += len(rows)
            logger.warning("%d metric rows lost: %s", len(rows), error)

    def _recover_spilled(self) -> None:
        """The store may have come back since rows were set aside."""
        if self._spill is None or self._error or not (self._spilled or self._has_copies):
            return
        try:
            spill_file.absorb(self._store, self.run_id, self._spill)
            self._written += self._spilled
            self._spilled, self._has_copies = 0, False
        except (TorchstoneError, OSError) as error:  # they stay in the spill file, and the report says so
            self._error = str(error)


_OPEN: weakref.WeakSet[MetricWriter] = weakref.WeakSet()


def _close_all() -> None:
    for writer in list(_OPEN):
        writer.close(timeout_s=2.0)


def _forget_all() -> None:
    """In a forked child: the thread stayed with the parent, and the rows are the parent's to write."""
    for writer in list(_OPEN):
        writer._foreign = True


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
