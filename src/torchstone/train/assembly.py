"""A subject and a configuration become an engine: optimizer, update, state, rows, loop."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchstone._errors import ConfigError
from torchstone._seeds import preserved_rng
from torchstone.config.resolve import Resolved
from torchstone.optim.pruning.pruner import Pruner, build_pruner
from torchstone.optim.registry import OPTIMIZERS, build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.tracking.checkpoint import Checkpoint
from torchstone.tracking.run_folder import RunFolder
from torchstone.train.average import WeightAverage
from torchstone.train.chunked_loss import chunk_of
from torchstone.train.constraint import FREE
from torchstone.train.device import bring
from torchstone.train.devices import refuse_apart
from torchstone.train.engine import Engine
from torchstone.train.health import LayerHealth
from torchstone.train.hooks import Hooks
from torchstone.train.incident import keep_incident
from torchstone.train.losses import LOSSES
from torchstone.train.nonfinite import Policy
from torchstone.train.objective import ModelObjective, PreparedBatches, validation_batches
from torchstone.train.place import Place
from torchstone.train.precision import autocast_of, require_usable
from torchstone.train.probes import probes_of, require_attention
from torchstone.train.progress import Pace, Progress
from torchstone.train.ranks import IN_PLACE, Spread
from torchstone.train.saving import Keeping
from torchstone.train.signals import SignalWatch
from torchstone.train.snapshot import Stateful, restore_snapshot
from torchstone.train.split_head import choose_split
from torchstone.train.step import Recipe
from torchstone.train.subject import Subject
from torchstone.train.update import DeviceUpdate, HostUpdate, ScaledUpdate, Update

if TYPE_CHECKING:
    from torchstone.tracking.store import Store
    from torchstone.tracking.writer import MetricWriter

log = logging.getLogger(__name__)
PRUNER = "pruner"
"""Name of its state in a checkpoint."""


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
    learner = _learner(subject, config, found)
    from torchstone.tracking.writer import MetricWriter  # brings the database

    writer = MetricWriter(
        store,
        folder.run_id,
        spill=folder.path / "metrics.spill.jsonl",
        resume_after=learner.progress.step if place.exists else None,
    )
    return _engine(subject, config, folder.path, learner, writer, hooks, watch), writer


def follow(
    subject: Subject, config: Resolved, run_dir: Path, found: Checkpoint | None, watch: SignalWatch
) -> Engine:
    """The engine of a rank whose rows, folder and hooks are rank 0's."""
    return _engine(subject, config, run_dir, _learner(subject, config, found), _NoRows(), Hooks(()), watch)


class _NoRows:
    """Rows of a rank that keeps none."""

    def log(self, step: int, row: Mapping[str, float]) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True)
class _Learner:
    """What the steps change, on its device or devices."""

    spread: Spread
    optimizer: torch.optim.Optimizer
    update: Update
    states: dict[str, Stateful]
    progress: Progress


def _learner(subject: Subject, config: Resolved, found: Checkpoint | None) -> _Learner:
    ranks, loop = subject.ranks, config.train
    ranks.seed(loop.random_seed, 0 if found is None else found.step)
    bring(subject.module, subject.device)
    spread = ranks.spread(subject.module, loop.strategy, subject.device, loop.precision)
    optimizer = build_optimizer(subject.module, config.optim)
    update = update_of(subject, config, optimizer, spread)
    states = _states(subject, config, update)
    pruner = pruner_of(subject, config, optimizer, update)
    if pruner is not None:
        states[PRUNER] = pruner
        if isinstance(average := states.get("average"), WeightAverage):
            pruner.followers.append(average.tensors())
    progress = Progress()
    if found is not None:
        found = spread.opened(found, optimizer)
        progress = restore_snapshot(found, subject.module, optimizer, states, rank=ranks.rank)
    return _Learner(spread, optimizer, update, states, progress)


def update_of(
    subject: Subject, config: Resolved, optimizer: torch.optim.Optimizer, spread: Spread = IN_PLACE
) -> Update:
    """How gradients are applied on this device in this format."""
    trained = [parameter for parameter in subject.module.parameters() if parameter.requires_grad]
    gradients = spread.gradients(trained, config.optim.max_grad_norm)
    if (prepare := getattr(optimizer, "prepare_gradients", None)) is not None:
        gradients.preparations.append(prepare)
    if (observe := getattr(optimizer, "observe_norm", None)) is not None:
        gradients.observers.append(observe)
    if config.train.precision == "fp16":
        return ScaledUpdate(gradients, subject.device)
    if subject.device.type == "cuda" and DeviceUpdate.suits(optimizer):
        return DeviceUpdate(gradients, subject.device, sticky=config.train.on_nonfinite == "stop")
    return HostUpdate(gradients)


def pruner_of(
    subject: Subject, config: Resolved, optimizer: torch.optim.Optimizer, update: Update
) -> Pruner | None:
    """Who makes weights zero, if anybody; gradients of these are masked before they are measured."""
    pruner = build_pruner(
        subject.module,
        optimizer,
        config.prune,
        total_steps=pace_of(subject, config).total_steps,
        optimizer_name=config.optim.name,
    )
    if pruner is not None:
        update.gradients.preparations.insert(0, pruner.mask_gradients)
    return pruner


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
    run_dir: Path,
    learner: _Learner,
    writer: MetricWriter | _NoRows,
    hooks: Hooks,
    watch: SignalWatch,
) -> Engine:
    loop, task, update, states = config.train, subject.task, learner.update, learner.states
    objective = objective_of(subject, config)
    pace = pace_of(subject, config)
    validation = subject.validation
    return Engine(
        module=subject.module,
        objective=learner.spread.objective(objective),
        optimizer=learner.optimizer,
        learning_rate=lambda step: learning_rate_at(step, pace.total_steps, config.optim),
        batches=PreparedBatches(subject.batches, objective),
        validation=None if validation is None else lambda: validation_batches(validation(), objective),
        recipe=Recipe(update, autocast_of(loop.precision, subject.device), subject.ranks),
        pace=pace,
        progress=learner.progress,
        keeping=_keeping(config, subject, run_dir, states),
        log_row=writer.log,
        flush_rows=writer.flush,
        hooks=hooks,
        max_time_s=loop.max_time_s,
        patience=loop.early_stopping_patience,
        watch=watch,
        policy=Policy(loop.on_nonfinite, loop.max_nonfinite),
        average=states.get("average"),  # type: ignore[arg-type]
        constraint=states.get(PRUNER, FREE),  # type: ignore[arg-type]
        health=_health(subject, config, update),
        keep_incident=functools.partial(
            keep_incident,
            run_dir,
            module=subject.module,
            model=dict(subject.model),
            task=task.kind,
            ids=subject.ids,
            num_outputs=objective.num_outputs,
            precision=loop.precision,
            seed=loop.random_seed,
        )
        if subject.ranks.main
        else None,
        spread=learner.spread,
        probes=probes_of(subject, config, objective, learner.spread),
    )


def _keeping(config: Resolved, subject: Subject, run_dir: Path, states: dict[str, Stateful]) -> Keeping:
    loop = config.train
    if loop.keep_best != type(loop).model_fields["keep_best"].default and subject.validation is None:
        raise ConfigError(
            "train.keep_best has no effect without validation data",
            next="give validation data, or take the key out",
        )
    return Keeping(
        run_dir=run_dir,
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
    if config.tracking.attention_samples:
        require_attention(subject, config)
    require_usable(config.train.precision, subject.device)
    if subject.ranks.world > 1:
        refuse_apart(config.train)
    refuse_split(config)
    if config.train.speed != "as-set" and (subject.device.type != "cpu" or subject.ranks.world > 1):
        raise ConfigError(
            "train.speed has no effect here",
            where=f"{subject.device}, {subject.ranks.world} processes",
            why="its levers are those of one process on a CPU",
            next="take the key out; train.precision and train.compile are the levers here",
        )
    if config.train.loss_chunk is not None and not LOSSES.get(subject.task.kind).has_perplexity:
        raise ConfigError(
            f"train.loss_chunk has no effect on the task {subject.task.kind}",
            why="only the logits over a vocabulary are worth being cut",
            next="take the key out",
        )


def refuse_split(config: Resolved) -> None:
    """An optimizer whose state FSDP cannot split; pruning of weights that are not there as a whole."""
    if config.prune.method != "none" and (config.train.strategy == "fsdp" or config.train.lora_rank):
        raise ConfigError(
            f"prune.method = {config.prune.method} does not go with "
            + ("train.lora_rank" if config.train.lora_rank else "train.strategy = fsdp"),
            why="weights are ranked whole, and pruned where they learn",
            next="--set train.strategy=ddp and train.lora_rank=0, or --set prune.method=none",
        )
    why_not = OPTIMIZERS.get(config.optim.name).no_fsdp
    if config.train.strategy == "fsdp" and why_not is not None:
        raise ConfigError(
            f"optim.name = {config.optim.name} does not go with train.strategy = fsdp",
            why=why_not,
            next="--set train.strategy=ddp, or an optimizer of the Adam family or sgd",
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
    objective.token_bytes = subject.token_bytes
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
