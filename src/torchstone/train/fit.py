"""A model and its batches become a run: optimizer, folder, store, engine, report, result.

Both doors, `run.py` (a job from the command line) and `trainer.py` (objects from Python), end here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
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
from torchstone._files import replacing, write_json
from torchstone._seeds import preserved_rng, seed_everything
from torchstone.config.resolve import Resolved
from torchstone.data.task import TaskSpec
from torchstone.optim.registry import build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.tracking.checkpoint import WEIGHTS, Checkpoint, untie
from torchstone.tracking.environment import snapshot
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store, default_store
from torchstone.tracking.writer import MetricWriter
from torchstone.train.average import WeightAverage
from torchstone.train.chunked_loss import chunk_of
from torchstone.train.compiling import compiled
from torchstone.train.engine import Batches, Ending, Engine, memory_told
from torchstone.train.health import LayerHealth
from torchstone.train.hooks import EndInfo, Hooks, StartInfo
from torchstone.train.incident import keep_incident
from torchstone.train.losses import LOSSES, Batch, SpecialIds
from torchstone.train.nonfinite import Policy
from torchstone.train.objective import ModelObjective, PreparedBatches, validation_batches
from torchstone.train.place import REPORT, Place, choose_checkpoint
from torchstone.train.precision import autocast_of, numerics, require_usable, reserve_expandable
from torchstone.train.progress import Pace, Progress
from torchstone.train.recompute import recomputed_blocks
from torchstone.train.rehearsal import Rehearsal
from torchstone.train.result import TrainResult, perplexity
from torchstone.train.saving import Keeping
from torchstone.train.signals import SignalWatch, exit_code_of
from torchstone.train.snapshot import Stateful, restore_snapshot
from torchstone.train.split_head import choose_split
from torchstone.train.start_block import used_settings
from torchstone.train.step import Recipe
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate, ScaledUpdate, Update

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
            with numerics(config.train.precision, deterministic=config.train.deterministic):
                engine, writer = _assemble(subject, config, place, folder, store, found, Hooks(hooks), watch)
                try:
                    with memory_told(), _prepared(engine, subject, config, folder):
                        ending = engine.run()
                except BaseException as error:
                    writer.close()
                    _note_failure(engine, folder, store, error)
                    raise
            rows = writer.close()
            model_path = _save_trained(engine, folder) if ending.status == "completed" else None
            resumed_from = str(found.path) if found else None
            result = _result(
                engine, ending, folder, subject, resumed_from=resumed_from, model_path=model_path
            )
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
    update = _update(subject, config, optimizer)
    states = _states(subject, config, update)
    progress = Progress() if found is None else restore_snapshot(found, subject.module, optimizer, states)
    writer = MetricWriter(
        store,
        folder.run_id,
        spill=folder.path / "metrics.spill.jsonl",
        resume_after=progress.step if place.exists else None,
    )
    return _engine(subject, config, folder, optimizer, update, states, progress, writer, hooks, watch), writer


def _update(subject: Subject, config: Resolved, optimizer: torch.optim.Optimizer) -> Update:
    """How gradients are applied on this device in this format."""
    trained = [parameter for parameter in subject.module.parameters() if parameter.requires_grad]
    gradients = Gradients(trained, config.optim.max_grad_norm)
    if config.train.precision == "fp16":
        return ScaledUpdate(gradients, subject.device)
    if subject.device.type == "cuda" and DeviceUpdate.suits(optimizer):
        return DeviceUpdate(gradients, subject.device, sticky=config.train.on_nonfinite != "skip")
    return HostUpdate(gradients)


def _states(subject: Subject, config: Resolved, update: Update) -> dict[str, Stateful]:
    """What a checkpoint holds besides weights, optimizer, progress and generators."""
    states: dict[str, Stateful] = {}
    if config.train.ema_decay is not None:
        states["average"] = WeightAverage(subject.module, config.train.ema_decay)
    if isinstance(update, ScaledUpdate):
        states["scaler"] = update.scaler
    return states


def _engine(
    subject: Subject,
    config: Resolved,
    folder: RunFolder,
    optimizer: torch.optim.Optimizer,
    update: Update,
    states: dict[str, Stateful],
    progress: Progress,
    writer: MetricWriter,
    hooks: Hooks,
    watch: SignalWatch,
) -> Engine:
    loop, task = config.train, subject.task
    num_outputs = task.num_classes if task.num_classes is not None else task.vocab_size
    objective = ModelObjective(
        subject.forward,
        LOSSES.get(task.kind),
        subject.ids,
        subject.device,
        num_outputs,
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
        recipe=Recipe(update, autocast_of(loop.precision, subject.device)),
        pace=pace,
        progress=progress,
        keeping=_keeping(config, subject, folder, states),
        log_row=writer.log,
        flush_rows=writer.flush,
        hooks=hooks,
        max_time_s=loop.max_time_s,
        patience=loop.early_stopping_patience,
        watch=watch,
        policy=Policy(loop.on_nonfinite, loop.max_nonfinite),
        average=states.get("average"),  # type: ignore[arg-type]
        health=_health(subject, config, update),
        keep_incident=functools.partial(
            keep_incident,
            folder.path,
            module=subject.module,
            model=dict(subject.model),
            task=task.kind,
            ids=subject.ids,
            num_outputs=num_outputs,
            precision=loop.precision,
            seed=loop.random_seed,
        ),
    )


def _keeping(config: Resolved, subject: Subject, folder: RunFolder, states: dict[str, Stateful]) -> Keeping:
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
        extra=states,
    )


def _health(subject: Subject, config: Resolved, update: Update) -> LayerHealth | None:
    if config.tracking.layers_every is None:
        return None
    return LayerHealth(subject.module, update.gradients.parameters)


def pace_of(subject: Subject, config: Resolved) -> Pace:
    return Pace.of(
        config.train,
        batches_per_epoch=len(subject.batches),
        log_every=config.tracking.log_every,
        watch_every=config.tracking.layers_every,
    )


@contextlib.contextmanager
def _prepared(engine: Engine, subject: Subject, config: Resolved, folder: RunFolder) -> Iterator[None]:
    """Checkpointed blocks, a compiled and warm model, and everybody told, for the length of the run."""
    rehearsal = _rehearsal(engine, subject)
    kernels = rehearsal.kernels() if rehearsal else {}
    with contextlib.ExitStack() as stack:
        blocks: list[str] = []
        if config.train.gradient_checkpointing and rehearsal:
            blocks = stack.enter_context(recomputed_blocks(subject.module, rehearsal.quietly))
        compilation = stack.enter_context(compiled(config.train, rehearsal))
        if compilation.why:
            note = f"torch.compile was given up: {compilation.why}"
            log.warning(note)
            subject.notes.append(note)
        if rehearsal and subject.device.type != "cpu":
            rehearsal.warm_up()
        settings = used_settings(engine, subject.device, config, kernels, compilation, blocks)
        _announce(engine, subject, config, folder, settings)
        yield


def _rehearsal(engine: Engine, subject: Subject) -> Rehearsal | None:
    """With the first batch of what is left of this epoch; drawing it moves nothing."""
    if engine.progress.loader_state is not None:
        engine.batches.load_state(engine.progress.loader_state)
    with preserved_rng():
        state = engine.batches.state()
        batch = next((batch for batch, _ in engine.batches), None)
        engine.batches.load_state(state)
    if batch is None:
        return None
    return Rehearsal(subject.module, engine.objective, batch, engine.recipe.autocast)


def _refuse_without_effect(config: Resolved, subject: Subject) -> None:
    """Wishes that this model or this data cannot fulfil, before the first file is written."""
    if config.train.early_stopping_patience is not None and subject.validation is None:
        raise ConfigError(
            "train.early_stopping_patience has no effect without validation data",
            next="give validation data, or take the key out",
        )
    require_usable(config.train.precision, subject.device)
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
            reserve_expandable(torch.device("cuda"))
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        reserve_expandable(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EnvironmentProblem(
            f"device {name!r} cannot be used here", why=str(error).splitlines()[0], next="--device cpu"
        ) from error
    return device


def _announce(
    engine: Engine, subject: Subject, config: Resolved, folder: RunFolder, settings: dict[str, str]
) -> None:
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
        settings=settings,
    )
    if subject.validation is None:
        log.info("no validation data: only the training loss is measured")
    for hear in engine.hooks.on_start:
        hear(info)


# --- ending -------------------------------------------------------------------------------------


def _result(
    engine: Engine,
    ending: Ending,
    folder: RunFolder,
    subject: Subject,
    *,
    resumed_from: str | None,
    model_path: str | None,
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
        model_path=model_path,
        epochs=[_with_perplexity(row, subject.task) for row in progress.epochs],
        warnings=[*subject.notes, *(engine.health.warnings if engine.health else ())],
        sampler=subject.sampler,
    )


def _save_trained(engine: Engine, folder: RunFolder) -> str:
    """The trained model as one file at the run's root: the averaged weights where they were kept."""
    from safetensors.torch import save_file

    entries = engine.module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    kept, tied = untie(tensors)
    if engine.average is not None:
        averaged = engine.average.tensors()
        kept |= {name: averaged[name].to(kept[name].dtype) for name in kept.keys() & averaged.keys()}
    path = folder.path / WEIGHTS
    with replacing(path) as partial:
        save_file({name: each.contiguous() for name, each in kept.items()}, partial, metadata=tied)
    return str(path)


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
    info = EndInfo(
        step=engine.progress.step,
        status=status,
        reason=reason,
        seconds=engine.seconds,
        epochs=tuple(engine.progress.epochs),
    )
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
