"""A model and its batches become a run: optimizer, folder, store, engine, report, result.

Both doors, `run.py` (a job from the command line) and `trainer.py` (objects from Python), end here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import (
    RunLocked,
    TorchstoneError,
    TryAgain,
    disk_trouble,
)
from torchstone._files import read_json, replacing, write_json
from torchstone._seeds import preserved_rng
from torchstone.adapt.lora import num_parameters
from torchstone.config.resolve import Resolved
from torchstone.tracking.checkpoint import WEIGHTS, Checkpoint, open_checkpoint, untie
from torchstone.tracking.energy import KIND as ENERGY
from torchstone.tracking.energy import read_meters, spent
from torchstone.tracking.environment import snapshot
from torchstone.tracking.partial import KEPT, part_of
from torchstone.tracking.rows import FACTS
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.tensor_file import write_tensors
from torchstone.train.assembly import assemble, follow, refuse_without_effect
from torchstone.train.auto import left_open
from torchstone.train.compiling import compiled
from torchstone.train.engine import Engine
from torchstone.train.facts import run_facts
from torchstone.train.hooks import EndInfo, Hooks, StartInfo
from torchstone.train.levers import Choice, choose, format_of, pulled
from torchstone.train.loop_parts import Ending
from torchstone.train.losses import LOSSES
from torchstone.train.memory import memory_told
from torchstone.train.place import REPORT, Place, choose_checkpoint
from torchstone.train.precision import numerics
from torchstone.train.recompute import recomputed_blocks
from torchstone.train.rehearsal import Rehearsal
from torchstone.train.result import TrainResult, with_perplexity
from torchstone.train.signals import SignalWatch, exit_code_of
from torchstone.train.start_block import used_settings
from torchstone.train.subject import Subject

if TYPE_CHECKING:
    from torchstone.tracking.replica import ReplicaReport
    from torchstone.tracking.store import Store

log = logging.getLogger(__name__)

LEVERS = "levers.json"


def fit(subject: Subject, config: Resolved, place: Place, *, hooks: Sequence[object] = ()) -> TrainResult:
    """Train `subject` in `place`. A signal or the clock gives a result with status interrupted."""
    assert not left_open(config), "who makes a subject settles what is open before"
    refuse_without_effect(config, subject)
    ranks = subject.ranks
    if not ranks.main:
        return _follow(subject, config)
    # The database is not needed before a run begins.
    from torchstone.tracking.replica import replicate
    from torchstone.tracking.store import Store, default_store

    # From the first file written to the last, a signal is noted and obeyed where nothing can tear.
    with SignalWatch() as watch:
        folder = _enter(place, config, subject)
        with (
            folder.locked(),
            Store.open(default_store(folder.path)) as store,
            replicate(config.tracking.sinks, store, folder) as replicas,
        ):
            found = choose_checkpoint(place, folder)
            is_new = not (folder.path / "config.json").is_file()
            environment = _record_start(folder, store, config, subject, is_new=is_new)
            record = functools.partial(_record_facts, store, folder, environment)
            ranks.from_main(lambda: (folder.path, found))
            with numerics(config.train.precision, deterministic=config.train.deterministic):
                engine, writer = assemble(
                    subject, config, place, folder, store, found, Hooks((*hooks, *subject.hooks)), watch
                )
                meters, tokens = read_meters(_gpu_of(subject)), engine.progress.tokens
                try:
                    with memory_told(), _prepared(engine, subject, config, folder, record):
                        ending = engine.run()
                except BaseException as error:
                    writer.close()
                    _note_failure(engine, folder, store, error)
                    raise
            rows = writer.close()
            joules = spent(meters, read_meters(_gpu_of(subject)))
            model_path = (
                _save_trained(engine, folder, subject.model.get(KEPT))
                if ending.status == "completed"
                else None
            )
            resumed_from = str(found.path) if found else None
            result = _result(
                engine, ending, folder, subject, resumed_from=resumed_from, model_path=model_path
            )
            if not rows.complete:
                result.warnings.append(f"{rows.lost + rows.spilled} metric rows are not in the store")
            write_json(folder.path / REPORT, result.to_dict())
            _close_row(store, folder, ending.status, result, joules, engine.progress.tokens - tokens)
            if config.tracking.dashboard:
                _draw(store, folder, result)
            # Last: a run killed before this line is resumed, and does again what is above it.
            folder.set_status(ending.status)
            _tell_end(engine, ending.status, ending.reason)
            ranks.leave()
        result.warnings.extend(
            _behind(each.report, result.run_id)
            for each in replicas
            if each.report.waiting or each.report.error
        )
        if watch.received is not None:  # after the last step: all is done, but whoever sent it must see it
            result = dataclasses.replace(result, exit_code=exit_code_of(watch.received))
        return result


def _follow(subject: Subject, config: Resolved) -> TrainResult:
    """What a rank does whose rows, folder and checkpoints are rank 0's."""
    ranks, loop = subject.ranks, config.train
    with SignalWatch() as watch, numerics(loop.precision, deterministic=loop.deterministic):
        run_dir, found = ranks.from_main(_known_to_main)
        engine = follow(subject, config, run_dir, found, watch)
        with memory_told(), _prepared(engine, subject, config):
            ending = engine.run()
        ranks.leave()
    return TrainResult(
        run_id="",
        run_dir=str(run_dir),
        status=ending.status,
        steps=engine.progress.step,
        tokens=engine.progress.tokens,
        reason=ending.reason,
        exit_code=ending.exit_code,
    )


def _known_to_main() -> tuple[Path, Checkpoint | None]:
    raise AssertionError("asked of a rank that is not the main one")


def _close_row(
    store: Store,
    folder: RunFolder,
    status: str,
    result: TrainResult,
    joules: Mapping[str, float],
    tokens: int,
) -> None:
    """The end in the store. A finished run does not die because its store is gone or busy."""
    try:
        if joules:
            store.add_event(folder.run_id, ENERGY, {"joules": dict(joules), "tokens": tokens})
        store.finish_run(folder.run_id, status, _summary(result))
    except (OSError, TorchstoneError) as error:
        log.warning("the end of the run is not in the store: %s", error)
        result.warnings.append(f"the end of the run is not in the store: {_first_line(error)}")


def _behind(report: ReplicaReport, run_id: str) -> str:
    why = f": {report.error}" if report.error else ""
    return f"{report.sink} lacks {report.waiting:,} rows{why}; torchstone runs sync {run_id}"


def _first_line(error: Exception) -> str:
    """Of an error's message, which may be empty."""
    return str(error).partition("\n")[0]


# --- preparing ----------------------------------------------------------------------------------


def _enter(place: Place, config: Resolved, subject: Subject) -> RunFolder:
    if place.exists:
        assert place.run_dir is not None
        return RunFolder.open(place.run_dir)
    if place.run_dir is not None and RunFolder.exists(place.run_dir):
        raise RunLocked(
            "another process has begun this run in the meantime",
            where=str(place.run_dir),
            next="the same command with --resume auto, when it is over",
        )
    name = config.tracking.run_name or str(subject.model.get("name") or subject.model.get("class") or "run")
    return RunFolder.create(place.run_dir, name=name)


def _record_start(
    folder: RunFolder, store: Store, config: Resolved, subject: Subject, *, is_new: bool
) -> dict[str, Any]:
    """The environment of this session; the folder keeps that of the first."""
    environment = snapshot()
    if is_new:
        folder.write_config(config.to_json())
        folder.write_environment(environment)
        if subject.save_extras is not None:
            subject.save_extras(folder.path)
    folder.set_status("running")
    store.start_run(folder.run_id, name=folder.name, kind="train", run_dir=folder.path, config=config.plain)
    return environment


def _gpu_of(subject: Subject) -> str | None:
    """The uuid by which the driver knows the device."""
    if subject.device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(subject.device).uuid}"


def _record_facts(store: Store, folder: RunFolder, environment: dict[str, Any], *session: Any) -> None:
    store.add_event(folder.run_id, FACTS, run_facts(environment, *session))


@contextlib.contextmanager
def _prepared(
    engine: Engine,
    subject: Subject,
    config: Resolved,
    folder: RunFolder | None = None,
    record: Callable[..., None] | None = None,
) -> Iterator[None]:
    """Checkpointed blocks, a compiled and warm model, and everybody told, for the length of the run.

    Without a folder there is nobody to tell.
    """
    rehearsal = _rehearsal(engine, subject)
    kernels = rehearsal.kernels() if rehearsal else {}
    with contextlib.ExitStack() as stack:
        blocks: list[str] = []
        if config.train.gradient_checkpointing and rehearsal:
            blocks = stack.enter_context(recomputed_blocks(subject.module, rehearsal.quietly))
        choice = _levers(engine, rehearsal, config, folder, stack)
        compilation = stack.enter_context(compiled(config.train, rehearsal))
        if compilation.why:
            note = f"torch.compile was given up: {compilation.why}"
            log.warning(note)
            subject.notes.append(note)
        if rehearsal and subject.device.type != "cpu":
            rehearsal.warm_up()
        if folder is not None and record is not None:
            record(engine, subject, config, compilation, choice)
            settings = used_settings(engine, subject.device, config, kernels, compilation, blocks, choice)
            _announce(engine, subject, config, folder, settings)
        yield


def _levers(
    engine: Engine,
    rehearsal: Rehearsal | None,
    config: Resolved,
    folder: RunFolder | None,
    stack: contextlib.ExitStack,
) -> Choice | None:
    """The levers that the run began with, or those that a probe finds now, pulled until `stack` ends."""
    if config.train.speed == "as-set" or rehearsal is None or folder is None:
        return None
    kept = folder.path / LEVERS
    if kept.is_file():
        choice = Choice.from_dict(read_json(kept))
    else:
        choice = choose(
            rehearsal,
            steps_to_come=engine.pace.total_steps - engine.progress.step,
            may_round=config.train.speed == "probe-bf16" and config.train.precision == "fp32",
            may_compile=config.train.compile == "none",
        )
        write_json(kept, choice.to_dict())
    stack.enter_context(pulled(choice))
    rehearsal.autocast = format_of(choice, engine.recipe.autocast)
    engine.recipe = dataclasses.replace(engine.recipe, autocast=rehearsal.autocast)
    if choice.compile:
        rehearsal.module.compile()
        stack.callback(setattr, rehearsal.module, "_compiled_call_impl", None)
    return choice


def _rehearsal(engine: Engine, subject: Subject) -> Rehearsal | None:
    """With the first batch of what is left of this epoch; drawing it moves nothing."""
    if not engine.spread.can_be_alone:
        return None
    if engine.progress.loader_state is not None:
        engine.batches.load_state(engine.progress.loader_state)
    with preserved_rng():
        state = engine.batches.state()
        batch = next((batch for batch, _ in engine.batches), None)
        engine.batches.load_state(state)
    if batch is None:
        return None
    return Rehearsal(subject.module, engine.spread.alone(engine.objective), batch, engine.recipe.autocast)


def _announce(
    engine: Engine, subject: Subject, config: Resolved, folder: RunFolder, settings: dict[str, str]
) -> None:
    trainable, total = num_parameters(subject.module)
    info = StartInfo(
        run_id=folder.run_id,
        run_dir=folder.path,
        model=str(subject.model.get("target") or subject.model.get("class")),
        parameters=total,
        trainable=trainable,
        device=str(subject.device),
        precision=config.train.precision,
        total_steps=engine.pace.total_steps,
        steps_per_epoch=engine.pace.steps_per_epoch,
        first_step=engine.progress.step,
        has_validation=subject.validation is not None,
        unit=LOSSES.get(subject.task.kind).unit,
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
        unit=LOSSES.get(subject.task.kind).unit,
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
        epochs=[
            with_perplexity(row) if LOSSES.get(subject.task.kind).has_perplexity else dict(row)
            for row in progress.epochs
        ],
        warnings=[*subject.notes, *(engine.health.warnings if engine.health else ())],
        # A split model speaks only if all ranks call it.
        sampler=subject.sampler if engine.spread.can_be_alone else None,
    )


def _save_trained(engine: Engine, folder: RunFolder, kept: Collection[str] | None) -> str:
    """The trained model as one file at the run's root: the averaged weights where they were kept."""
    if engine.spread.can_be_alone:
        entries = engine.module.state_dict(keep_vars=True)
        tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    else:  # the last checkpoint has gathered what is split over the ranks
        tensors = open_checkpoint(folder.checkpoints / f"step-{engine.progress.step}").tensors()
    written, tied = untie(part_of(tensors, kept))
    if engine.average is not None:
        averaged = engine.average.tensors()
        both = written.keys() & averaged.keys()
        written |= {name: averaged[name].to(written[name].dtype) for name in both}
    path = folder.path / WEIGHTS
    with replacing(path) as partial:
        partial.unlink(missing_ok=True)  # of a killed process that had our number, as in a container
        write_tensors(partial, written, metadata=tied)
    return str(path)


def _summary(result: TrainResult) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "tokens": result.tokens,
        "unit": result.unit,
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
