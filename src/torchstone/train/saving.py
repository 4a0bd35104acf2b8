"""Saving while training goes on: the step waits for a copy of the state, a thread writes it.

    saver = Saver(keeping, flush_rows, stop_asked)
    saver.save(module, optimizer, progress)      # returns when the state may change again
    for info in saver.collect(): ...             # saves that were completed; raises the failure of one
    saver.wait()                                 # all written

At most one save is under way; the next waits for it, so there is at most one copy of the state. Both ways of
saving write the same bytes. Rows are made durable before the checkpoint that counts on them is written;
pointers move, and older checkpoints go, after it is complete.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from torchstone._errors import TryAgain
from torchstone.tracking.checkpoint import disk_full, steps_of, sweep
from torchstone.tracking.partial import KEPT
from torchstone.train.hooks import CheckpointInfo
from torchstone.train.progress import Pace, Progress
from torchstone.train.retention import point, prune, repair_pointers
from torchstone.train.snapshot import Snapshot, Stateful, private_copy, take_snapshot, write_snapshot
from torchstone.train.space import (
    checkpoint_bytes,
    checkpoints_at_once,
    require_space,
    when_there_is_space,
)

log = logging.getLogger(__name__)

WORTH_A_THREAD = 32 << 20
"""Bytes of state on the CPU below which the write itself is about as quick as a copy and a thread."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where and how checkpoints are kept."""

    run_dir: Path
    config_hash: str
    model: Mapping[str, Any]
    keep_last: int = 2
    keep_best: int = 1
    async_save: bool | None = None
    """None: where it pays, see `Saver.saves_aside`."""
    extra: Mapping[str, Stateful] = field(default_factory=dict)
    """Parts whose state belongs into the checkpoint: scaler, EMA."""

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"


class CheckpointFailed(TryAgain):
    """The disk refused a checkpoint; those before it are untouched."""


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(
        self,
        keeping: Keeping,
        flush_rows: Callable[[], object] = lambda: None,
        stop_asked: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.keeping = keeping
        self.latest: Path | None = None
        """Checkpoint written or confirmed last."""
        self._flush_rows = flush_rows
        self._stop_asked = stop_asked
        """Why a save that waits for space shall give up; asked from the writing thread too."""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._done: deque[CheckpointInfo] = deque()
        self._saved: tuple[int, int] | None = None
        """Step that was saved last, and the step that was settled then."""
        self._size = 0

    def begin(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, pace: Pace, progress: Progress
    ) -> None:
        """Clean up after a killed writer, and refuse now what will not fit later."""
        keeping = self.keeping
        keeping.checkpoints.mkdir(parents=True, exist_ok=True)
        sweep(keeping.checkpoints)
        self._size = checkpoint_bytes(module, optimizer, keeping.extra, keeping.model.get(KEPT))
        there = len(steps_of(keeping.checkpoints))
        to_come = pace.saves_at_most(progress.step)
        if to_come:
            at_once = checkpoints_at_once(keeping.keep_last, keeping.keep_best, there + to_come)
            require_space(keeping.checkpoints, self._size, at_once, there)
        with disk_full(f"no space left in {keeping.run_dir}", keeping.run_dir):
            repair_pointers(keeping.run_dir, latest=progress.step, best=progress.best_step)
        resumed_from = keeping.checkpoints / f"step-{progress.step}"
        if resumed_from.is_dir():  # it was verified when it was opened
            self.latest, self._saved = resumed_from, (progress.step, progress.settled_step)

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Keep the state as it is now, unless that was done already."""
        began = time.monotonic()
        self.wait()
        if self.has_saved(progress):
            return
        snapshot = self._take(module, optimizer, progress)
        if not self.saves_aside(snapshot):
            self._write(snapshot, began, began)
            return
        try:
            snapshot = private_copy(snapshot)
        except (RuntimeError, MemoryError) as error:
            log.warning("no memory for a copy of the state, so the step waits for the disk: %s", error)
            self._write(snapshot, began, began)
            return
        self._thread = threading.Thread(
            target=self._write_aside, args=(snapshot, began, time.monotonic()), name="torchstone-save"
        )
        self._thread.start()

    def has_saved(self, progress: Progress) -> bool:
        return self._saved == (progress.step, progress.settled_step)

    def _take(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Snapshot:
        return take_snapshot(module, optimizer, progress, self.keeping.extra, self.keeping.model.get(KEPT))

    def saves_aside(self, snapshot: Snapshot) -> bool:
        """Whether a thread writes this one.

        Left open by the user: on an accelerator always, for its host has cores and memory to spare. On the
        CPU for a state that takes longer to write than to copy, if half of the free memory stays free.
        """
        if self.keeping.async_save is not None:
            return self.keeping.async_save
        if any(tensor.device.type != "cpu" for tensor in snapshot.tensors.values()):
            return True
        return self._size > WORTH_A_THREAD and self._size < psutil.virtual_memory().available // 2

    # --- what the loop asks between steps -------------------------------------------------------

    def collect(self) -> Iterator[CheckpointInfo]:
        """Saves completed since the last call. Raises the failure of one that was not."""
        while self._done:
            yield self._done.popleft()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Until nothing is being written; raises the failure of what was."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @contextmanager
    def open(self) -> Iterator[None]:
        """Leave nothing unwritten behind; a failure does not hide the error that ends the block."""
        try:
            yield
        except BaseException:
            try:
                self.wait()
            except BaseException as error:
                log.error("a checkpoint was not saved: %s", error)
            raise
        self.wait()

    # --- writing --------------------------------------------------------------------------------

    def _write_aside(self, snapshot: Snapshot, began: float, freed: float) -> None:
        try:
            self._write(snapshot, began, freed)
        except BaseException as error:  # it belongs to the thread that trains, which raises it
            self._failure = error

    def _write(self, snapshot: Snapshot, began: float, freed: float) -> None:
        keeping = self.keeping
        attempt = functools.partial(self._attempt, snapshot)
        try:
            path = when_there_is_space(attempt, keeping.checkpoints, self._size, self._stop_asked)
        except OSError as error:
            raise CheckpointFailed(
                f"the checkpoint of step {snapshot.step} could not be saved",
                where=str(keeping.checkpoints),
                why=f"{error.strerror or error}; the checkpoints before it are untouched",
                next="when the disk is well again, continue with --resume auto",
            ) from error
        self.latest, self._saved = path, (snapshot.step, snapshot.state["progress"]["settled_step"])
        now = time.monotonic()
        self._done.append(
            CheckpointInfo(
                step=snapshot.step,
                path=path,
                is_best=snapshot.state["progress"]["best_step"] == snapshot.step,
                seconds=now - began,
                blocked_s=(freed if freed > began else now) - began,
            )
        )

    def _attempt(self, snapshot: Snapshot) -> Path:
        keeping, best = self.keeping, snapshot.state["progress"]["best_step"]
        # Rows up to this step must be safe before a checkpoint lets them count as done.
        self._flush_rows()
        path = write_snapshot(
            keeping.checkpoints, snapshot, config_hash=keeping.config_hash, model=keeping.model
        )
        with disk_full(f"no space left beside the checkpoint of step {snapshot.step}", keeping.run_dir):
            point(keeping.run_dir, "latest", snapshot.step)
            if best is not None and (keeping.checkpoints / f"step-{best}").is_dir():
                point(keeping.run_dir, "best", best)
            prune(
                keeping.checkpoints,
                keep_last=keeping.keep_last,
                keep_best=keeping.keep_best,
                best=best,
                just_written=snapshot.step,
            )
        return path
