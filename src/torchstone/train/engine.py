"""The training loop: steps, and what happens between them.

    with signals watched:
        settle                 what a stopped run left undone at its last step
        for each window:       step -> log -> settle (validate, close the epoch, save) -> stop?

Between two steps the state of a run is complete, and only there is it saved. Everything that is due at a
step follows from the step's number (`Pace`), so a resumed run repeats exactly what was lost.
The engine knows no model, task or tracker: it gets them as an objective, batches and a place to log.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from torchstone._errors import DataError, OutOfMemory
from torchstone.train.hooks import EvalInfo, Hooks, StepInfo
from torchstone.train.nonfinite import NonFinite, all_finite, diagnose
from torchstone.train.progress import Pace, Progress
from torchstone.train.saving import Keeping, Saver
from torchstone.train.signals import TRY_AGAIN, SignalWatch, exit_code_of
from torchstone.train.step import Micro, Objective, Recipe, StepOutcome, train_step
from torchstone.train.validation import Measuring, validate

log = logging.getLogger(__name__)


class Batches(Protocol):
    """One iteration is the rest of one epoch; each state resumes right after its batch."""

    def __iter__(self) -> Iterator[tuple[Micro, dict[str, Any]]]: ...
    def __len__(self) -> int: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


class EvalObjective(Objective, Measuring, Protocol):
    """What is minimised and measured."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run left the loop. `failed` has no ending: it raises."""

    status: str
    """completed or interrupted."""
    reason: str
    exit_code: int = 0


class Stop(Exception):
    """The way out of the loop when a signal or the clock asks for it."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending


class Engine:
    """Drives one run from `progress.step` to its end."""

    def __init__(
        self,
        *,
        module: nn.Module,
        objective: EvalObjective,
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        batches: Batches,
        validation: Callable[[], Iterable[Micro]] | None,
        recipe: Recipe,
        pace: Pace,
        progress: Progress,
        keeping: Keeping | None,
        log_row: Callable[[int, dict[str, float]], None],
        flush_rows: Callable[[], object],
        hooks: Hooks,
        max_time_s: float | None = None,
        patience: int | None = None,
        watch: SignalWatch | None = None,
    ) -> None:
        self.module = module
        self.objective = objective
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        """Of an optimizer step, counted from 0."""
        self.batches = batches
        self.validation = validation
        self.recipe = recipe
        self.pace = pace
        self.progress = progress
        self.log_row = log_row
        self.flush_rows = flush_rows
        self.hooks = hooks
        self.max_time_s = max_time_s
        self.patience = patience
        self.saver = None if keeping is None else Saver(keeping, flush_rows, self._stop_reason)
        self._watch = watch or SignalWatch()
        self._began = time.monotonic() - progress.seconds

    def run(self) -> Ending:
        """Train to the end, or until a signal or the clock stops it with the state saved."""
        self._began = time.monotonic() - self.progress.seconds
        self._session_began = time.monotonic()
        self._marked_at, self._marked_tokens = time.monotonic(), self.progress.tokens
        if self.saver is not None:
            self.saver.begin(self.module, self.optimizer, self.pace, self.progress)
        if self.progress.loader_state is not None:
            self.batches.load_state(self.progress.loader_state)
        if not self.module.training:  # parts that the user put into eval mode stay there
            self.module.train()
        try:
            with self._watch, self._saving():
                self._settle()
                self._stop_if_asked()
                for window, state in windows(self.batches, self.pace.accumulation):
                    if self._finished:
                        break
                    self._step(window, state)
                    self._tell_saved()
                    self._settle()
                    self._stop_if_asked()
                self._await_saves()
        except Stop as stop:
            return stop.ending
        except NonFinite:
            self._keep_state_before_failure()
            raise
        except (RuntimeError, MemoryError) as error:
            if lacks_memory(error):
                raise out_of_memory(error) from error
            raise
        why = "early stopping" if self.progress.stopped_early else "all steps done"
        return Ending(status="completed", reason=why)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all its sessions."""
        return time.monotonic() - self._began

    @property
    def latest(self) -> Path | None:
        """Checkpoint written or confirmed last."""
        return None if self.saver is None else self.saver.latest

    @property
    def _finished(self) -> bool:
        return self.progress.step >= self.pace.total_steps or self.progress.stopped_early

    # --- a step -----------------------------------------------------------------------------

    def _step(self, window: list[Micro], loader_state: dict[str, Any]) -> None:
        progress = self.progress
        rate = self.learning_rate(progress.step)
        outcome = train_step(window, self.objective, self.optimizer, rate, self.recipe)
        if outcome.targets == 0:
            raise DataError(
                "a whole optimizer step has nothing to learn from",
                where=f"step {progress.step + 1}",
                why="no label counts: sequences shorter than two tokens, or all of it padding",
                next="check the tokenizer's pad token and the sequence length",
            )
        if not outcome.applied:
            error = diagnose(self.module, self.objective, window, outcome, progress.step + 1)
            self.optimizer.zero_grad(set_to_none=True)
            raise error
        progress.step += 1
        progress.tokens += outcome.targets
        progress.loader_state = loader_state
        progress.last_learning_rate = rate
        progress.last_loss = outcome.loss
        progress.last_grad_norm = outcome.grad_norm
        progress.epoch_loss_sum += progress.last_loss * outcome.targets
        progress.epoch_targets += outcome.targets
        self._report(outcome, rate)

    def _report(self, outcome: StepOutcome, rate: float) -> None:
        progress, speed = self.progress, None
        if self.pace.logs(progress.step):
            speed = self._tokens_per_s()
            self.log_row(
                progress.step,
                {
                    "train/loss": progress.last_loss,
                    "train/learning_rate": rate,
                    "train/grad_norm": progress.last_grad_norm,
                    "train/tokens_per_s": speed,
                },
            )
        if self.hooks.on_step:
            info = StepInfo(
                progress.step,
                self.pace.total_steps,
                rate,
                progress.tokens,
                speed,
                outcome.loss,
                outcome.grad_norm,
            )
            for hear in self.hooks.on_step:
                hear(info)

    def _tokens_per_s(self) -> float:
        now = time.monotonic()
        speed = (self.progress.tokens - self._marked_tokens) / max(now - self._marked_at, 1e-9)
        self._marked_at, self._marked_tokens = now, self.progress.tokens
        return speed

    # --- between steps ----------------------------------------------------------------------

    def _settle(self) -> None:
        """Whatever is due after the last step. Done again after a resume, it gives the same."""
        step, began = self.progress.step, time.monotonic()
        if step == 0:
            return
        improved = False
        if self.pace.evaluates(step) and self.validation is not None and self.progress.evaluated_step < step:
            metrics = self._validate()
            if metrics is None:  # a signal came: leave it to the resumed run
                return
            improved = self._judge(metrics, seconds=time.monotonic() - began)
        if self.pace.ends_epoch(step) or self._finished:
            self._close_epoch()
        if self.pace.saves(step) or improved or self.progress.stopped_early:
            self._save()
        self._marked_at += time.monotonic() - began  # speed counts steps only

    def _validate(self) -> dict[str, float] | None:
        """Means over the validation set; None if a signal came."""
        assert self.validation is not None
        means = validate(
            self.module,
            self.objective,
            self.validation(),
            self.recipe.autocast,
            stop=lambda: self._watch.received is not None,
        )
        return None if means is None else {f"val/{name}": value for name, value in means.items()}

    def _judge(self, metrics: dict[str, float], seconds: float) -> bool:
        progress, loss = self.progress, metrics["val/loss"]
        improved = loss < progress.best_loss
        if improved:
            progress.best_step, progress.best_loss, progress.stale_evaluations = progress.step, loss, 0
        else:
            progress.stale_evaluations += 1
        progress.evaluated_step, progress.last_validation = progress.step, metrics
        if self.patience is not None and progress.stale_evaluations >= self.patience:
            progress.stopped_early = True
            log.info("no improvement in %d validations: stopping at step %d", self.patience, progress.step)
        self.log_row(progress.step, metrics)
        info = EvalInfo(step=progress.step, metrics=metrics, improved=improved, seconds=seconds)
        for hear in self.hooks.on_eval:
            hear(info)
        return improved

    def _close_epoch(self) -> None:
        progress = self.progress
        if progress.epoch_targets == 0:
            return
        elapsed = time.monotonic() - self._began
        row: dict[str, Any] = {
            "epoch": len(progress.epochs),
            "step": progress.step,
            "train/loss": progress.epoch_loss_sum / progress.epoch_targets,
            "learning_rate": progress.last_learning_rate,
            "gradient_norm": progress.last_grad_norm,
            "epoch_duration": elapsed - progress.epoch_seconds,
        }
        if progress.evaluated_step == progress.step:
            row |= progress.last_validation
        progress.epochs.append(row)
        progress.epoch_loss_sum, progress.epoch_targets, progress.epoch_seconds = 0.0, 0, elapsed

    def _save(self) -> None:
        if self.saver is not None:
            self.progress.seconds = time.monotonic() - self._began
            self.saver.save(self.module, self.optimizer, self.progress)
            self._tell_saved()

    def _saving(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self.saver is None else self.saver.open()

    def _tell_saved(self) -> None:
        """Report saves that were completed; a failed one ends the run here, at a step boundary."""
        if self.saver is not None:
            for info in self.saver.collect():
                for hear in self.hooks.on_checkpoint:
                    hear(info)

    def _await_saves(self) -> None:
        if self.saver is not None:
            self.saver.wait()
            self._tell_saved()

    # --- leaving ----------------------------------------------------------------------------

    def _stop_reason(self) -> str | None:
        """The signal or the clock, if one of them asks for the end."""
        if self._watch.received is not None:
            return self._watch.received.name
        if self.max_time_s is not None and time.monotonic() - self._session_began >= self.max_time_s:
            return f"train.max_time_s = {self.max_time_s:g}"
        return None

    def _stop_if_asked(self) -> None:
        reason, received = self._stop_reason(), self._watch.received
        if reason is None or (self._finished and received is None):
            return
        if self.progress.step > 0:
            self._save()
            self._await_saves()
        code = TRY_AGAIN if received is None else exit_code_of(received)
        raise Stop(Ending(status="interrupted", reason=reason, exit_code=code))

    def _keep_state_before_failure(self) -> None:
        # Running statistics may have seen the bad batch even though the weights have not.
        if self.progress.step > 0 and all_finite(self.module):
            self._save()
            self._await_saves()


def windows(batches: Batches, size: int) -> Iterator[tuple[list[Micro], dict[str, Any]]]:
    """Endless windows of `size` batches; none crosses the end of an epoch, so the last may be shorter."""
    while True:
        window: list[Micro] = []
        state: dict[str, Any] = {}
        empty = True
        for batch, state in batches:
            empty = False
            window.append(batch)
            if len(window) == size:
                yield window, state
                window = []
        if window:
            yield window, state
        if empty:
            raise DataError("there is not a single training batch", why="the data is empty or used up")


def lacks_memory(error: BaseException) -> bool:
    """A GPU's allocator has a class for it; the CPU's says it in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def out_of_memory(error: BaseException) -> OutOfMemory:
    return OutOfMemory(
        "not enough memory for a training step",
        why=str(error).splitlines()[0] if str(error) else type(error).__name__,
        next="halve train.batch_size and double train.gradient_accumulation_steps",
    )
