"""The training loop: steps, and what happens between them.

    with signals watched:
        settle                 what a stopped run left undone at its last step
        for each window:       step -> look -> settle (validate, close the epoch, save) -> stop?

A look reads what the steps since the last one came to. Where reading is free (a CPU) every step is looked
at; on a device that runs ahead only those where something is due, so that nobody waits in between.
Between two steps the state of a run is complete, and only there is it saved. Everything that is due at a
step follows from the step's number (`Pace`), so a resumed run repeats exactly what was lost.
The engine knows no model, task or tracker: it gets them as an objective, batches and a place to log.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone._errors import DataError
from torchstone._seeds import preserved_rng, torch_rng_state
from torchstone.tracking.checkpoint import newest_good
from torchstone.train.average import WeightAverage
from torchstone.train.constraint import FREE, Constraint
from torchstone.train.health import LayerHealth
from torchstone.train.hooks import EpochInfo, EvalInfo, Hooks, StepInfo
from torchstone.train.loop_parts import Batches, Ending, EngineObjective, Probe, Stop, Taken
from torchstone.train.memory import memory_told
from torchstone.train.nonfinite import NonFinite, Policy, all_finite, diagnose
from torchstone.train.progress import Pace, Progress
from torchstone.train.ranks import IN_PLACE, Spread
from torchstone.train.saving import Keeping
from torchstone.train.signals import TRY_AGAIN, SignalWatch, exit_code_of
from torchstone.train.snapshot import restore_snapshot
from torchstone.train.step import Micro, Recipe, nothing_to_learn, train_step
from torchstone.train.update import DeviceUpdate, clip_factor
from torchstone.train.validation import validate

log = logging.getLogger(__name__)
OUT_OF_TIME = 1
"""Less than any signal that is watched, so that a signal goes before the clock."""


class Engine:
    """Drives one run from `progress.step` to its end."""

    def __init__(
        self,
        *,
        module: nn.Module,
        objective: EngineObjective,
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
        policy: Policy | None = None,
        average: WeightAverage | None = None,
        constraint: Constraint = FREE,
        health: LayerHealth | None = None,
        keep_incident: Callable[[Taken, NonFinite], None] | None = None,
        spread: Spread = IN_PLACE,
        probes: Sequence[Probe] = (),
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
        self.policy = policy or Policy()
        self.average = average
        """Averaged weights; where there are any, they are what is validated."""
        self.constraint = constraint
        self.health = health
        self.keep_incident = keep_incident
        self.spread = spread
        self.probes = probes
        self.saver = spread.saver(keeping, flush_rows, self._stop_reason)
        self._watch = watch or SignalWatch()
        self._began = time.monotonic() - progress.seconds
        self._taken: list[Taken] = []
        self._paced, self._told_losses = (
            [getattr(each, name) for each in module.modules() if callable(getattr(each, name, None))]
            for name in ("at_step", "at_loss")
        )
        self._device = next((each.device for each in module.parameters()), torch.device("cpu"))

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
            with self._watch, memory_told(), self._saving():
                self._settle()
                self._stop_if_asked()
                for window, state in windows(self.batches, self.pace.accumulation):
                    if self._finished:
                        break
                    self._step(window, state)
                    self._tell_saved()
                    if self.recipe.update.waits or self.pace.is_due(self._steps_taken):
                        self._look()
                        self._settle()
                    self._stop_if_asked()
                self._await_saves()
        except Stop as stop:
            return stop.ending
        except NonFinite:
            self._keep_state_before_failure()
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
    def _steps_taken(self) -> int:
        """Also those that were not looked at."""
        return self.progress.step + len(self._taken)

    @property
    def _finished(self) -> bool:
        return self._steps_taken >= self.pace.total_steps or self.progress.stopped_early

    # --- a step -----------------------------------------------------------------------------

    def _step(self, window: list[Micro], loader_state: dict[str, Any]) -> None:
        step = self._steps_taken + 1
        rate, rng = self.learning_rate(step - 1), torch_rng_state(self._device)
        measured = self.pace.logs(step)
        for tell in self._paced:  # what warms up or anneals with the steps taken, whatever it is
            tell(step - 1)
        outcome = train_step(window, self.objective, self.optimizer, rate, self.recipe, measured=measured)
        if outcome.targets == 0:
            raise nothing_to_learn(step)
        self.constraint.after_step(step, lambda: outcome.update.was_made)
        if self.average is not None and outcome.update.made is not False:
            self.average.follow(outcome.update.bad)
        self._taken.append(Taken(step, window, rng, outcome, rate, loader_state))

    def _look(self) -> None:
        """Read what came of the steps since the last look, and act on it."""
        taken, self._taken = self._taken, []
        for each in taken:
            if each.outcome.update.was_made or each.outcome.update.overflow:
                self._count(each)
            else:
                self._refuse(each)

    def _count(self, taken: Taken) -> None:
        progress, outcome = self.progress, taken.outcome
        progress.advance(taken.step, taken.loader_state, outcome.targets)
        progress.last_learning_rate = taken.learning_rate
        progress.last_loss = outcome.total("loss") / outcome.targets
        for tell in self._told_losses:  # what waits for the loss to calm, whatever it is
            tell(taken.step, progress.last_loss)
        progress.last_grad_norm = outcome.update.norm.item()
        progress.epoch_loss_sum += progress.last_loss * outcome.targets
        progress.epoch_targets += outcome.targets
        if not outcome.update.overflow:
            progress.bad_steps = 0
        self._report(taken)

    def _report(self, taken: Taken) -> None:
        progress, speed = self.progress, None
        if self.pace.logs(taken.step):
            speed = self._tokens_per_s()
            self.log_row(taken.step, self._row(taken, speed))
        if self.hooks.on_step:
            info = StepInfo(
                taken.step,
                self.pace.total_steps,
                taken.learning_rate,
                progress.tokens,
                speed,
                progress.last_loss,
                progress.last_grad_norm,
            )
            for hear in self.hooks.on_step:
                hear(info)

    def _row(self, taken: Taken, speed: float) -> dict[str, float]:
        progress, outcome = self.progress, taken.outcome
        norm = progress.last_grad_norm
        row = {
            "train/loss": progress.last_loss,
            "train/learning_rate": taken.learning_rate,
            "train/grad_norm": norm,
            "train/grad_norm_clipped": norm * clip_factor(norm, self.recipe.update.gradients.max_norm),
            "train/tokens_per_s": speed,
        }
        if outcome.update.scale is not None:
            row["train/loss_scale"] = outcome.update.scale
        for name in outcome.sums[0]:
            if name != "loss":
                total = outcome.total(name)
                row[f"train/{name}"] = total / outcome.targets
                progress.add_measured(name, total, outcome.targets)
        if self.health is not None and self.pace.watches(taken.step):
            row |= self.health.read(outcome.update)
        return row

    def _refuse(self, taken: Taken) -> None:
        """A step whose loss or gradient is not finite; nothing was changed by it."""
        error = diagnose(
            self.module,
            self.spread.alone(self.objective),
            taken.window if self.spread.can_be_alone else (),
            taken.outcome,
            taken.step,
            taken.rng,
            self.recipe.autocast,
        )
        error = next((each for each in self.recipe.ranks.gather(error) if "module" in each.where), error)
        progress = self.progress
        progress.bad_steps += 1
        if self.keep_incident is not None and progress.bad_steps <= self.policy.limit:
            self.keep_incident(taken, error)
        if self.policy.name == "stop":
            raise error
        if progress.bad_steps > self.policy.limit:
            error.why += (
                f"; it is the {progress.bad_steps}th bad step in a row, and train.on_nonfinite gives up"
            )
            raise error
        if self.policy.name == "rollback":
            self._roll_back(error)
        elif self._is_broken():
            error.why += "; running statistics took the values that are not finite, so skipping is no help"
            raise error
        progress.refused_steps += 1
        progress.advance(taken.step, taken.loader_state, taken.outcome.targets)
        log.warning("%s (%s): %s", error.what, error.where, self.policy.name)
        self.log_row(taken.step, {"train/refused_steps": float(progress.refused_steps)})

    def _roll_back(self, error: NonFinite) -> None:
        """Weights and optimizer as in the newest checkpoint; step, schedule and data go on."""
        found = None
        if self.saver is not None:
            self.saver.wait()
            found = newest_good(self.saver.keeping.checkpoints)
        if self.saver is None or found is None:
            error.why += "; there is no checkpoint yet to roll back to"
            raise error
        with preserved_rng():
            restore_snapshot(found, self.module, self.optimizer, self.saver.keeping.extra)
        if isinstance(self.recipe.update, DeviceUpdate):
            self.recipe.update.forgive()

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
            seconds = time.monotonic() - began
            self.progress.epoch_eval_seconds += seconds
            improved = self._judge(metrics, seconds=seconds)
        if self.pace.ends_epoch(step) or self._finished:
            self._close_epoch()
        self.progress.settled_step = step
        if self.pace.saves(step) or improved or self.progress.stopped_early:
            self._save()
        self._marked_at += time.monotonic() - began  # speed counts steps only

    def _validate(self) -> dict[str, float] | None:
        """Means over the validation set; None if a signal came."""
        assert self.validation is not None
        averaged = contextlib.nullcontext() if self.average is None else self.average.in_place()
        with averaged:
            satisfied = self.constraint.require()
            means = validate(
                self.module,
                self.objective,
                self.validation(),
                self.recipe.autocast,
                stop=lambda: self._asked_to_stop() > OUT_OF_TIME,
                ranks=self.recipe.ranks,
            )
            if means is not None:
                self._log_probes()
        return None if means is None else {f"val/{key}": value for key, value in means.items()} | satisfied

    def _log_probes(self) -> None:
        """Rows of their own: hundreds of numbers that no checkpoint and no table of epochs needs."""
        row = {key: value for probe in self.probes for key, value in probe().items()}
        if row:
            self.log_row(self.progress.step, row)

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
            "eval_duration": progress.epoch_eval_seconds,
        }
        row |= {f"train/{name}": mean for name, mean in progress.measured_means().items()}
        if progress.evaluated_step == progress.step:
            row |= progress.last_validation
        progress.epochs.append(row)
        progress.begin_epoch(elapsed)
        for hear in self.hooks.on_epoch:
            hear(EpochInfo(epoch=row["epoch"], row=dict(row)))

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
        """The signal or the clock, if one of them asks this process for the end."""
        if self._watch.received is not None:
            return self._watch.received.name
        return self._clock if self._out_of_time() else None

    @property
    def _clock(self) -> str:
        return f"train.max_time_s = {self.max_time_s:g}"

    def _out_of_time(self) -> bool:
        return self.max_time_s is not None and time.monotonic() - self._session_began >= self.max_time_s

    def _asked_to_stop(self) -> int:
        """A signal's number, OUT_OF_TIME or 0: the same on all ranks, whichever of them was asked."""
        asked = self._watch.received or (OUT_OF_TIME if self._out_of_time() else 0)
        return self.recipe.ranks.most(int(asked))

    def _is_broken(self) -> bool:
        """Whether weights or buffers are not finite, on any rank."""
        return bool(self.recipe.ranks.most(int(not all_finite(self.module))))

    def _stop_if_asked(self) -> None:
        asked = self._asked_to_stop()
        if not asked or (self._finished and asked == OUT_OF_TIME):
            return
        self._look()
        if self.progress.step > 0:
            self._save()
            self._await_saves()
        if asked == OUT_OF_TIME:
            code, reason = TRY_AGAIN, self._clock
        else:
            received = signal.Signals(asked)
            code, reason = exit_code_of(received), received.name
        raise Stop(Ending(status="interrupted", reason=reason, exit_code=code))

    def _keep_state_before_failure(self) -> None:
        # Running statistics may have seen the bad batch even though the weights have not.
        broken = self._is_broken()
        if self.progress.step > 0 and not broken:
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
