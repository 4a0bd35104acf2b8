"""A model and its batches become a run: optimizer, folder, store, engine, report, result.

Both doors, `run.py` (a job from the command line) and `trainer.py` (objects from Python), end here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone._errors import (
    ConfigError,
    EnvironmentProblem,
    TorchstoneError,
    TryAgain,
    disk_trouble,
)
from torchstone._files import write_json
from torchstone._seeds import preserved_rng, seed_everything
from torchstone.config.resolve import Resolved
from torchstone.data.task import TaskSpec
from torchstone.optim.registry import build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.tracking.checkpoint import Checkpoint
from torchstone.tracking.environment import snapshot
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store, default_store
from torchstone.tracking.writer import MetricWriter
from torchstone.train.chunked_loss import chunk_of
from torchstone.train.engine import Batches, Ending, Engine
from torchstone.train.hooks import EndInfo, Hooks, StartInfo
from torchstone.train.losses import LOSSES, Batch, SpecialIds
from torchstone.train.objective import ModelObjective, PreparedBatches, validation_batches
from torchstone.train.place import REPORT, Place, choose_checkpoint
from torchstone.train.progress import Pace, Progress
from torchstone.train.result import TrainResult, perplexity
from torchstone.train.saving import Keeping
from torchstone.train.signals import SignalWatch, exit_code_of
from torchstone.train.snapshot import restore_snapshot
from torchstone.train.split_head import choose_split
from torchstone.train.step import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is trained and on what: everything the engine needs that no configuration key holds."""

    module: nn.Module
    forward: Callable[..., Any]
    task: TaskSpec
    ids: SpecialIds
    model: Mapping[str, Any]
    """Rebuilds the model; kept in each checkpoint."""
    batches: Batches
    """Raw batches with their states."""
    validation: Callable[[], Iterable[Batch]] | None
    device: torch.device
    save_extras: Callable[[Path], None] | None = None
    """Puts what belongs to the model (a tokenizer) into the run folder."""
    sampler: Callable[[int, str | None], str] | None = None
    notes: list[str] = field(default_factory=list)
    num_tokens: int | None = None
    """Tokens of one epoch, where they are known."""


def fit(subject: Subject, config: Resolved, place: Place, *, hooks: Sequence[object] = ()) -> TrainResult:
    """Train `subject` in `place`. A signal or the clock gives a result with status interrupted."""
    _refuse_without_effect(config, subject)
    # From the first file written to the last, a signal is noted and obeyed where nothing can tear.
    with SignalWatch() as watch:
        folder = _enter(place, config, subject)
        with folder.locked(), Store.open(default_store(folder.path)) as store:
            found = choose_checkpoint(place, folder)
            _record_start(folder, store, config, subject, is_new=not (folder.path / "config.json").is_file())
            with _numerics(config):
                engine, writer = _assemble(subject, config, place, folder, store, found, Hooks(hooks), watch)
                _announce(engine, subject, config, folder)
                try:
                    ending = engine.run()
                except BaseException as error:
                    writer.close()
                    _note_failure(engine, folder, store, error)
                    raise
            rows = writer.close()
            result = _result(engine, ending, folder, subject, resumed_from=str(found.path) if found else None)
            if not rows.complete:
                result.warnings.append(f"{rows.lost + rows.spilled} metric rows are not in the store")
            write_json(folder.path / REPORT, result.to_dict())
            _close_row(store, folder, ending.status, result)
            if config.tracking.dashboard:
                _draw(store, folder, result)
            # Last: a run killed before this line is resumed, and does again what is above it.
            folder.set_status(ending.status)
            _tell_end(engine, ending.status, ending.reason)
        if watch.received is not None:  # after the last step: all is done, but whoever sent it must see it
            result = dataclasses.replace(result, exit_code=exit_code_of(watch.received))
        return result


def _close_row(store: Store, folder: RunFolder, status: str, result: TrainResult) -> None:
    """The end in the store. A finished run does not die because its store is gone or busy."""
    try:
        store.finish_run(folder.run_id, status, _summary(result))
    except (OSError, TorchstoneError) as error:
        log.warning("the end of the run is not in the store: %s", error)
        result.warnings.append(f"the end of the run is not in the store: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    """Of an error's message, which may be empty."""
    return str(error).partition("\n")[0]


# --- preparing ----------------------------------------------------------------------------------


def _enter(place: Place, config: Resolved, subject: Subject) -> RunFolder:
    if place.exists:
        assert place.run_dir is not None
        return RunFolder.open(place.run_dir)
    name = config.tracking.run_name or str(subject.model.get("name") or subject.model.get("class") or "run")
    return RunFolder.create(place.run_dir, name=name)


def _record_start(
    folder: RunFolder, store: Store, config: Resolved, subject: Subject, *, is_new: bool
) -> None:
    if is_new:
        folder.write_config(config.to_json())
        folder.write_environment(snapshot())
        if subject.save_extras is not None:
            subject.save_extras(folder.path)
    folder.set_status("running")
    store.start_run(folder.run_id, name=folder.name, kind="train", run_dir=folder.path, config=config.plain)


def _assemble(
    subject: Subject,
    config: Resolved,
    place: Place,
    folder: RunFolder,
    store: Store,
    found: Checkpoint | None,
    hooks: Hooks,
    watch: SignalWatch,
) -> tuple[Engine, MetricWriter]:
    """Optimizer, state, rows and loop, at the beginning or where the checkpoint was taken."""
    seed_everything(config.train.random_seed)
    subject.module.to(subject.device)
    optimizer = build_optimizer(subject.module, config.optim)
    progress = Progress() if found is None else restore_snapshot(found, subject.module, optimizer)
    writer = MetricWriter(
        store,
        folder.run_id,
        spill=folder.path / "metrics.spill.jsonl",
        resume_after=progress.step if place.exists else None,
    )
    return _engine(subject, config, folder, optimizer, progress, writer, hooks, watch), writer


def _engine(
    subject: Subject,
    config: Resolved,
    folder: RunFolder,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    writer: MetricWriter,
    hooks: Hooks,
    watch: SignalWatch,
) -> Engine:
    task = subject.task
    objective = ModelObjective(
        subject.forward,
        LOSSES.get(task.kind),
        subject.ids,
        subject.device,
        task.num_classes if task.num_classes is not None else task.vocab_size,
        class_weights=task.class_weights,
        model_config=subject.model.get("config"),
        notes=subject.notes,
    )
    _cut_loss(objective, subject, config)
    pace = pace_of(subject, config)
    validation = subject.validation
    return Engine(
        module=subject.module,
        objective=objective,
        optimizer=optimizer,
        learning_rate=lambda step: learning_rate_at(step, pace.total_steps, config.optim),
        batches=PreparedBatches(subject.batches, objective),
        validation=None if validation is None else lambda: validation_batches(validation(), objective),
        recipe=Recipe(
            [parameter for parameter in subject.module.parameters() if parameter.requires_grad],
            config.optim.max_grad_norm,
            autocast_of(config.train.precision, subject.device),
        ),
        pace=pace,
        progress=progress,
        keeping=_keeping(config, subject, folder),
        log_row=writer.log,
        flush_rows=writer.flush,
        hooks=hooks,
        max_time_s=config.train.max_time_s,
        patience=config.train.early_stopping_patience,
        watch=watch,
    )


def _keeping(config: Resolved, subject: Subject, folder: RunFolder) -> Keeping:
    loop = config.train
    if loop.keep_best != type(loop).model_fields["keep_best"].default and subject.validation is None:
        raise ConfigError(
            "train.keep_best has no effect without validation data",
            next="give validation data, or take the key out",
        )
    return Keeping(
        run_dir=folder.path,
        config_hash=config.hash,
        model=subject.model,
        keep_last=loop.keep_last,
        keep_best=loop.keep_best,
        async_save=loop.async_save,
    )


def pace_of(subject: Subject, config: Resolved) -> Pace:
    return Pace.of(config.train, batches_per_epoch=len(subject.batches), log_every=config.tracking.log_every)


def autocast_of(precision: str, device: torch.device) -> Callable[[], Any]:
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def _refuse_without_effect(config: Resolved, subject: Subject) -> None:
    """Wishes that this model or this data cannot fulfil, before the first file is written."""
    if config.train.early_stopping_patience is not None and subject.validation is None:
        raise ConfigError(
            "train.early_stopping_patience has no effect without validation data",
            next="give validation data, or take the key out",
        )
    if config.train.loss_chunk is not None and not LOSSES.get(subject.task.kind).has_perplexity:
        raise ConfigError(
            f"train.loss_chunk has no effect on the task {subject.task.kind}",
            why="only the logits over a vocabulary are worth being cut",
            next="take the key out",
        )


def _cut_loss(objective: ModelObjective, subject: Subject, config: Resolved) -> None:
    """Make the loss by the chunk, where that is wanted and worth it."""
    if config.train.loss_chunk is None:
        return
    with preserved_rng():
        batch = next((batch for batch, _ in PreparedBatches(subject.batches, objective)), None)
    if batch is None:
        return  # the loop tells that there is nothing
    vocab_size = subject.task.vocab_size or 1
    chunk = chunk_of(config.train.loss_chunk, batch.labels["labels"].numel(), vocab_size)
    if chunk is None:
        log.info("the logits of a micro-batch are small: train.loss_chunk=0 leaves the loss whole")
        return
    autocast = autocast_of(config.train.precision, subject.device)
    objective.split, why_not = choose_split(subject.module, objective, batch, chunk, autocast)
    if why_not:
        note = f"the loss is made in chunks from whole logits, not from hidden states: {why_not}"
        log.warning(note)
        subject.notes.append(note)


def choose_device(name: str | None) -> torch.device:
    """The device that was asked for, or the best one here."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EnvironmentProblem(
            f"device {name!r} cannot be used here", why=str(error).splitlines()[0], next="--device cpu"
        ) from error
    return device


@contextlib.contextmanager
def _numerics(config: Resolved) -> Iterator[None]:
    """Deterministic mode for the length of a run, and back."""
    if not config.train.deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _announce(engine: Engine, subject: Subject, config: Resolved, folder: RunFolder) -> None:
    info = StartInfo(
        run_id=folder.run_id,
        run_dir=folder.path,
        model=str(subject.model.get("target") or subject.model.get("class")),
        parameters=sum(parameter.numel() for parameter in subject.module.parameters()),
        device=str(subject.device),
        precision=config.train.precision,
        total_steps=engine.pace.total_steps,
        steps_per_epoch=engine.pace.steps_per_epoch,
        first_step=engine.progress.step,
        has_validation=subject.validation is not None,
    )
    if subject.validation is None:
        log.info("no validation data: only the training loss is measured")
    for hear in engine.hooks.on_start:
        hear(info)


# --- ending -------------------------------------------------------------------------------------


def _result(
    engine: Engine, ending: Ending, folder: RunFolder, subject: Subject, *, resumed_from: str | None
) -> TrainResult:
    progress = engine.progress
    best_step = progress.best_step
    best: dict[str, Any] = {"step": None, "val/loss": None, "checkpoint": None}
    if best_step is not None:
        best = {
            "step": best_step,
            "val/loss": progress.best_loss,
            "checkpoint": str(folder.checkpoints / f"step-{best_step}"),
        }
    return TrainResult(
        run_id=folder.run_id,
        run_dir=str(folder.path),
        status=ending.status,
        steps=progress.step,
        tokens=progress.tokens,
        final={
            "train/loss": progress.last_loss if progress.step else None,
            "val/loss": progress.last_validation.get("val/loss"),
        },
        best=best,
        resumed_from=resumed_from,
        seconds=engine.seconds,
        reason=ending.reason,
        exit_code=ending.exit_code,
        run_name=folder.name,
        checkpoint=str(engine.latest) if engine.latest else None,
        epochs=[_with_perplexity(row, subject.task) for row in progress.epochs],
        warnings=list(subject.notes),
        sampler=subject.sampler,
    )


def _with_perplexity(row: dict[str, Any], task: TaskSpec) -> dict[str, Any]:
    if not LOSSES.get(task.kind).has_perplexity:
        return dict(row)
    return row | {
        f"{split}/perplexity": perplexity(row[f"{split}/loss"])
        for split in ("train", "val")
        if f"{split}/loss" in row
    }


def _summary(result: TrainResult) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "tokens": result.tokens,
        "final": result.final,
        "best": result.best,
        "reason": result.reason,
        "seconds": result.seconds,
    }


def _note_failure(engine: Engine, folder: RunFolder, store: Store, error: BaseException) -> None:
    """Record how the run ended; what goes wrong here must not hide the error itself."""
    known = disk_trouble(error) or error
    status = "interrupted" if isinstance(known, TryAgain | KeyboardInterrupt) else "failed"
    told = known.to_dict() if isinstance(known, TorchstoneError) else {"what": repr(error)}
    try:
        store.finish_run(folder.run_id, status, {"steps": engine.progress.step, "error": told})
        folder.set_status(status)
    except (TorchstoneError, OSError) as second:
        log.warning("the end of the run could not be recorded: %s", second)
    _tell_end(engine, status, told["what"])


def _tell_end(engine: Engine, status: str, reason: str) -> None:
    info = EndInfo(step=engine.progress.step, status=status, reason=reason, seconds=engine.seconds)
    for hear in engine.hooks.on_end:
        hear(info)


def _draw(store: Store, folder: RunFolder, result: TrainResult) -> None:
    """The dashboard. A run that is finished does not die of a picture: any failure is a warning."""
    try:
        from torchstone.report.dashboard import write_dashboard

        write_dashboard(store, folder.run_id, folder.path)
    except Exception as error:
        log.warning("no dashboard: %s", error)
        result.warnings.append(f"no dashboard: {type(error).__name__}: {_first_line(error)}")
