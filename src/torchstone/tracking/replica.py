"""Copies of a run's rows at other services, made from the store beside the training, never in its way.

    with replicate(["wandb"], store, folder) as replicas:
        ...                                         # train; the step knows nothing of this
    replicas[0].report.waiting                      # rows that the service has not

    catch_up(store, folder, "wandb")                # later: what was missed

A replica reads what is new in the store, sends whole steps, and notes in `replicas/NAME.json` how far it came
and how many rows of each metric it sent. A service that fails or hangs is tried again and then left: its rows
stay in the store, and `torchstone runs sync` sends them. A process that is killed between sending and noting
sends those steps once more.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone import _files
from torchstone._errors import DataError, TorchstoneError, in_one_line
from torchstone._optional import available, missing_extra
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.sinks import SINKS, Copied, Sink, SinkRecord
from torchstone.tracking.store import Store

logger = logging.getLogger(__name__)

EVERY_S = 2.0
"""Between two looks into the store."""
LONGEST_PAUSE_S = 60.0
"""Between two tries of a service that fails."""
PATIENCE_S = 30.0
"""At the end of a run, for a service to take the rest."""


@dataclass(frozen=True)
class ReplicaReport:
    """How far a replica came."""

    sink: str
    sent: int
    """Rows that the service took, over all sessions."""
    waiting: int
    """Rows in the store that it has not; 0 where the store cannot be asked, and `error` says so."""
    error: str = ""
    """Its last failure, if it did not recover."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class _Progress:
    """What `replicas/NAME.json` keeps."""

    cursor: int = -1
    """Every step up to here was sent."""
    sent: dict[str, int] = field(default_factory=dict)
    """Rows of each metric that were."""
    sink: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Progress:
        if not path.is_file():
            return cls()
        try:
            return cls(**_files.read_json(path))
        except (ValueError, TypeError) as error:
            raise DataError(
                "this is no record of a replica",
                where=str(path),
                why=str(error),
                next="delete it, and the run is sent anew",
            ) from error

    def write(self, path: Path) -> None:
        _files.write_json(path, vars(self))


class _Copier:
    """Sends what the store has and the service lacks; raises what the service raises."""

    def __init__(self, store: Store, folder: RunFolder, record: SinkRecord) -> None:
        self._store = store
        self._folder = folder
        self._record = record
        self._path = folder.path / "replicas" / f"{record.name}.json"
        self._progress = _Progress.read(self._path)
        self._sink: Sink | None = None

    def send_new(self, *, to_the_end: bool = False) -> None:
        """Send the steps beyond the cursor; the newest may still grow and waits for `to_the_end`."""
        newest = self._store.last_values([self._folder.run_id])[self._folder.run_id]
        keys = [key for key, row in newest.items() if row.step > self._progress.cursor]
        rows = [
            row
            for key in keys
            for row in self._store.metrics(self._folder.run_id, key, self._progress.cursor)
        ]
        last = max((row.step for row in rows), default=-1)
        self._send([row for row in rows if to_the_end or row.step < last])

    def send_missing(self) -> None:
        """Send rows at or below the cursor that came late, where the service takes them in any order."""
        there = self._store.count_rows(self._folder.run_id, self._progress.cursor)
        late = [key for key, count in there.items() if count > self._progress.sent.get(key, 0)]
        if not late or not self._record.any_order:
            return
        for key in late:
            self._progress.sent[key] = 0  # its rows are told apart by their step, so all go once more
        rows = [row for key in late for row in self._store.metrics(self._folder.run_id, key)]
        self._send([row for row in rows if row.step <= self._progress.cursor])

    def report(self, error: str = "") -> ReplicaReport:
        there, sent = self._store.count_rows(self._folder.run_id), dict(self._progress.sent)
        waiting = sum(max(count - sent.get(key, 0), 0) for key, count in there.items())
        return ReplicaReport(self._record.name, sum(sent.values()), waiting, error)

    def close(self) -> None:
        """Tell the service how the run stands now."""
        if self._sink is not None:
            self._sink.close(self._store.run(self._folder.run_id).status)
            self._sink = None

    def _send(self, rows: Sequence[MetricRow]) -> None:
        if not rows:
            return
        steps: dict[int, list[MetricRow]] = {}
        for row in rows:
            steps.setdefault(row.step, []).append(row)
        try:
            sink = self._opened()
            for step in sorted(steps):
                here = steps[step]
                sink.send(step, {row.key: row.value for row in here}, max(row.at for row in here))
                self._progress.cursor = max(self._progress.cursor, step)
                for row in here:
                    self._progress.sent[row.key] = self._progress.sent.get(row.key, 0) + 1
        finally:
            self._progress.write(self._path)

    def _opened(self) -> Sink:
        if self._sink is None:
            run = self._store.run(self._folder.run_id)
            self._sink = self._record.make(Copied(run, self._folder.path, self._progress.sink))
        return self._sink


class Replica:
    """A thread that keeps one service up to date while a run is being written."""

    def __init__(
        self, store: Store, folder: RunFolder, record: SinkRecord, *, every_s: float = EVERY_S
    ) -> None:
        self.report = ReplicaReport(record.name, 0, 0)
        self._copier = _Copier(store, folder, record)
        self._every_s = every_s
        self._closing = threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._work, name=f"replica-{record.name}", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = PATIENCE_S) -> ReplicaReport:
        """Send the rest, but wait no longer than `timeout_s`."""
        self._closing.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._error = self._error or f"it did not answer within {timeout_s:g} s"
        try:
            self.report = self._copier.report(self._error)
        except (OSError, TorchstoneError) as error:  # a finished run does not die because its store is busy
            self.report = dataclasses.replace(self.report, error=self._error or in_one_line(error))
        return self.report

    def _work(self) -> None:
        pause = self._every_s
        while not self._closing.wait(pause):
            pause = self._every_s if self._try() else min(pause * 2, LONGEST_PAUSE_S)
        self._try(last=True)

    def _try(self, *, last: bool = False) -> bool:
        # The second place, beside the writer of rows, where any failure is taken: a service is not the run.
        try:
            self._copier.send_new(to_the_end=last)
            if last:
                self._copier.send_missing()
                self._copier.close()
        except BaseException as error:
            if not self._error:
                logger.warning("%s gets no rows: %s", self.report.sink, error)
            self._error = in_one_line(error)
            return False
        self._error = ""
        return True


@contextmanager
def replicate(names: Sequence[str], store: Store, folder: RunFolder) -> Iterator[list[Replica]]:
    """Keep these services up to date within the block; afterwards each replica has its report.

    Raises UsageError for a name that is none, MissingExtra where its library is not installed.
    """
    records = [installed(name) for name in dict.fromkeys(names)]
    replicas = [Replica(store, folder, record) for record in records]
    try:
        yield replicas
    finally:
        for each in replicas:
            each._closing.set()  # all at once, so that the slowest alone is waited for
        for each in replicas:
            each.close()


def installed(name: str) -> SinkRecord:
    """The sink of this name, if its library is there; nothing is imported."""
    record = SINKS.get(name)
    if not available(record.name):
        raise missing_extra(record.name, record.extra)
    return record


def catch_up(store: Store, folder: RunFolder, name: str) -> ReplicaReport:
    """Send a service what it lacks of a run that nobody is writing; the report tells its failure."""
    copier = _Copier(store, folder, installed(name))
    try:
        copier.send_new(to_the_end=True)
        copier.send_missing()
        copier.close()
    except Exception as error:
        return copier.report(in_one_line(error))
    return copier.report()


def replicas_of(folder: RunFolder) -> list[str]:
    """Services that got rows of this run."""
    return sorted(path.stem for path in (folder.path / "replicas").glob("*.json"))
