"""Where a run stands: everything that must survive a kill besides weights, optimizer and generators.

`Progress` goes into every checkpoint as plain numbers and lists. `Pace` says which steps are special;
it is a pure function of the step, so a resumed run takes the same turns as the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchstone.train.config import LoopConfig


@dataclass
class Progress:
    """Counters of a run; equal after resume and without a stop."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Targets trained on."""
    loader_state: dict[str, Any] | None = None
    """Where the next window begins."""
    epoch_loss_sum: float = 0.0
    epoch_targets: int = 0
    last_loss: float = math.nan
    last_grad_norm: float = math.nan
    last_learning_rate: float = math.nan
    last_validation: dict[str, float] = field(default_factory=dict)
    """Metrics of the last validation."""
    settled_step: int = 0
    """Last step behind which all that was due was done. A signal during a validation leaves that undone."""
    evaluated_step: int = 0
    """Last step after which the validation set was read."""
    best_step: int | None = None
    best_loss: float = math.inf
    stale_evaluations: int = 0
    """Validations in a row without improvement."""
    stopped_early: bool = False
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """One row per finished epoch."""
    seconds: float = 0.0
    """Time spent training, over all sessions of the run."""
    epoch_seconds: float = 0.0
    epoch_eval_seconds: float = 0.0
    measured: dict[str, list[float]] = field(default_factory=dict)
    """Metric -> [sum, targets] over the measured steps of this epoch."""
    bad_steps: int = 0
    """Steps in a row whose loss or gradient was not finite."""
    refused_steps: int = 0
    """All of them."""

    def advance(self, step: int, loader_state: dict[str, Any], targets: int) -> None:
        self.step, self.loader_state = step, loader_state
        self.tokens += targets

    def add_measured(self, name: str, total: float, targets: int) -> None:
        known = self.measured.setdefault(name, [0.0, 0])
        known[0] += total
        known[1] += targets

    def measured_means(self) -> dict[str, float]:
        return {name: total / targets for name, (total, targets) in self.measured.items() if targets}

    def begin_epoch(self, seconds: float) -> None:
        self.epoch_loss_sum, self.epoch_targets, self.measured = 0.0, 0, {}
        self.epoch_seconds, self.epoch_eval_seconds = seconds, 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Which steps end an epoch, are validated, saved, logged, or are the last. Steps count from 1."""

    total_steps: int
    steps_per_epoch: int
    accumulation: int
    """Micro-steps per optimizer step."""
    eval_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_every_epochs: int = 1
    log_every: int = 1
    watch_every: int | None = None
    """Optimizer steps between looks at the layers."""

    @classmethod
    def of(
        cls, loop: LoopConfig, *, batches_per_epoch: int, log_every: int = 1, watch_every: int | None = None
    ) -> Pace:
        steps_per_epoch = math.ceil(batches_per_epoch / loop.gradient_accumulation_steps)
        in_epochs = loop.epochs * steps_per_epoch
        return cls(
            total_steps=in_epochs if loop.max_steps is None else min(loop.max_steps, in_epochs),
            steps_per_epoch=steps_per_epoch,
            accumulation=loop.gradient_accumulation_steps,
            eval_every=loop.eval_every,
            checkpoint_every=loop.checkpoint_every,
            checkpoint_every_epochs=loop.checkpoint_every_epochs,
            log_every=log_every,
            watch_every=watch_every,
        )

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def evaluates(self, step: int) -> bool:
        if step == self.total_steps:
            return True
        return step % self.eval_every == 0 if self.eval_every else self.ends_epoch(step)

    def saves(self, step: int) -> bool:
        if step == self.total_steps:
            return True
        if self.checkpoint_every:
            return step % self.checkpoint_every == 0
        return step % (self.steps_per_epoch * self.checkpoint_every_epochs) == 0

    def saves_at_most(self, done: int) -> int:
        """Checkpoints that may still be written after step `done`: planned, best so far, or at a stop."""
        left = self.total_steps - done
        if left <= 0:
            return 0
        saving = self.checkpoint_every or self.steps_per_epoch * self.checkpoint_every_epochs
        validating = self.eval_every or self.steps_per_epoch
        return min(left, left // saving + left // validating + 2)

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.total_steps or step == 1 or self.watches(step)

    def watches(self, step: int) -> bool:
        return self.watch_every is not None and (step % self.watch_every == 0 or step == 1)

    def is_due(self, step: int) -> bool:
        """Whether anything at all happens after the step."""
        return self.logs(step) or self.evaluates(step) or self.saves(step) or self.ends_epoch(step)
