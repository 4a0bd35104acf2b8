"""A subject and a configuration become an engine: optimizer, update, state, rows, loop."""

from __future__ import annotations

import functools
import logging

import torch

from torchstone._errors import (
    ConfigError,
)
from torchstone._seeds import preserved_rng, seed_everything
from torchstone.config.resolve import Resolved
from torchstone.optim.registry import build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.tracking.checkpoint import Checkpoint
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store
from torchstone.tracking.writer import MetricWriter
from torchstone.train.average import WeightAverage
from torchstone.train.chunked_loss import chunk_of
from torchstone.train.engine import Engine
from torchstone.train.health import LayerHealth
from torchstone.train.hooks import Hooks
from torchstone.train.incident import keep_incident
from torchstone.train.losses import LOSSES
from torchstone.train.nonfinite import Policy
from torchstone.train.objective import ModelObjective, PreparedBatches, validation_batches
from torchstone.train.place import Place
from torchstone.train.precision import autocast_of, require_usable
from torchstone.train.progress import Pace, Progress
from torchstone.train.saving import Keeping
from torchstone.train.signals import SignalWatch
from torchstone.train.snapshot import Stateful, restore_snapshot
from torchstone.train.split_head import choose_split
from torchstone.train.step import Recipe
from torchstone.train.subject import Subject
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate, ScaledUpdate, Update

log = logging.getLogger(__name__)


def assemble(
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
    update = update_of(subject, config, optimizer)
    states = _states(subject, config, update)
    progress = Progress() if found is None else restore_snapshot(found, subject.module, optimizer, states)
    writer = MetricWriter(
        store,
        folder.run_id,
        spill=folder.path / "metrics.spill.jsonl",
        resume_after=progress.step if place.exists else None,
    )
    return _engine(subject, config, folder, optimizer, update, states, progress, writer, hooks, watch), writer


def update_of(subject: Subject, config: Resolved, optimizer: torch.optim.Optimizer) -> Update:
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
    objective = objective_of(subject, config)
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
            num_outputs=objective.num_outputs,
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


def refuse_without_effect(config: Resolved, subject: Subject) -> None:
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


def objective_of(subject: Subject, config: Resolved) -> ModelObjective:
    """What the steps minimise, whole or by the chunk."""
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
    return objective


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
