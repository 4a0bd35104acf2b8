"""The training job: from a resolved configuration to a trained run folder.

result = run(TrainJob(settings, run_dir="runs/first"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._files import write_json
from torchstone.config.resolve import Resolved
from torchstone.train.result import TrainResult

if TYPE_CHECKING:
    import torch

    from torchstone.data.task import TaskSpec
    from torchstone.train.place import Place
    from torchstone.train.ranks import Ranks
    from torchstone.train.subject import Subject

__all__ = ["TrainJob", "TrainResult", "run"]
CLASSES = "classes.json"
"""In a run folder: names of the classes, in the model's order."""


@dataclass(frozen=True)
class TrainJob:
    """What to train, where, and who watches."""

    settings: Resolved
    run_dir: str | Path | None = None
    """Folder of this run; None makes a new one under runs/."""
    resume: str = "never"
    """never, auto, or a checkpoint."""
    trust: bool | None = None
    """Whether the model's code may run here; None trusts what is local."""
    device: str | None = None
    hooks: Sequence[object] = ()
    cache_dir: Path | None = None
    """Where tokenizers and tokens are kept between runs; None: the user's cache folder."""
    on_packing: Callable[[int, int], None] | None = None
    """Told how much text is encoded: (bytes done, bytes in all)."""


def run(job: TrainJob) -> TrainResult:
    """Train. A signal or `--max-time` gives a result with status interrupted and its exit code."""
    from torchstone.train.auto import adopt
    from torchstone.train.fit import fit
    from torchstone.train.place import find_place, recorded
    from torchstone.train.ranks import ALONE
    from torchstone.train.signals import leave_at_once

    ranks, device = ALONE, None
    job = dataclasses.replace(job, settings=adopt(job.settings, recorded(job.run_dir, job.resume)))
    with leave_at_once():  # nothing is at stake yet
        if not job.settings.train.dry_run:
            from torchstone.train.rank_group import meet

            ranks, device = meet(job.settings.train, job.device)
        place = ranks.from_main(lambda: find_place(job.run_dir, job.resume, job.settings))
        if place.finished is not None:
            return place.finished
        alone = job
        settings = ranks.from_main(lambda: settled(alone, device, ranks.world).settings)
        job = dataclasses.replace(job, settings=settings)
        subject = prepare(job, ranks, device)
    if job.settings.train.dry_run:
        return describe(subject, job, place)
    return fit(subject, job.settings, place, hooks=job.hooks)


def settled(job: TrainJob, device: torch.device | None = None, world: int = 1) -> TrainJob:
    """The job with what it leaves open chosen (`auto.py`); the same job where nothing is open."""
    (settings,) = settle_arms(job, [job.settings], device, world)
    return dataclasses.replace(job, settings=settings)


def settle_arms(
    job: TrainJob, arms: Sequence[Resolved], device: torch.device | None = None, world: int = 1
) -> list[Resolved]:
    """Arms of one study, which are `job` with other settings, with one choice for all of them."""
    from torchstone.train.auto import has_to_settle, settle
    from torchstone.train.device import choose_device

    if not any(map(has_to_settle, arms)):
        return list(arms)
    device = device or choose_device(job.device)
    return settle(
        arms,
        lambda trial: prepare(dataclasses.replace(job, settings=trial), device=device),
        device=device,
        world=world,
    )


def prepare(job: TrainJob, ranks: Ranks | None = None, device: torch.device | None = None) -> Subject:
    """Load the model, find its task, read and tokenise the text, make batches of this rank's part."""
    from torchstone.adapt.load import load
    from torchstone.data.task import TaskSpec
    from torchstone.train.device import choose_device
    from torchstone.train.facts import data_facts
    from torchstone.train.lora import AdapterKeeper, with_lora
    from torchstone.train.losses import LOSSES
    from torchstone.train.ranks import ALONE
    from torchstone.train.scoring import bytes_in_validation
    from torchstone.train.separation import require_separation
    from torchstone.train.size_hints import tell_sizes
    from torchstone.train.special_ids import special_ids
    from torchstone.train.subject import Subject
    from torchstone.train.text import read_text

    settings, ranks = job.settings, ranks or ALONE
    device = device or choose_device(job.device)
    wanted_task = None if settings.data.task == "auto" else TaskSpec.from_name(settings.data.task)
    sizes = settings.model.overrides()
    loaded = load(
        settings.model.target,
        task=wanted_task,
        trust=job.trust,
        overrides=sizes,
        seed=settings.train.random_seed,
    )
    loaded, lora = with_lora(loaded, settings)
    task = dataclasses.replace(loaded.task, vocab_size=loaded.facts.vocab_size)
    rule = LOSSES.get(task.kind)
    with ranks.main_first():  # the others find its tokens in the cache
        text = read_text(
            settings,
            task,
            loaded.facts,
            cache_dir=job.cache_dir,
            part=ranks.part,
            on_progress=job.on_packing,
        )
    if settings.data.document_attention:
        require_separation(loaded.adapter, loaded.module, text.batches.dataset)
    notes = [*loaded.notes, *text.notes]
    tell_sizes(loaded.module, device, notes)
    if len(text.batches.dataset) == 1:
        notes.append("the training data is a single example")
    told = None
    if text.validation is None:
        notes.append("no validation data: only the training loss is measured")
    else:
        told = bytes_in_validation(rule, text.tokenizer, text.held_out, notes)
    return Subject(
        module=loaded.module,
        forward=loaded.adapter,
        task=text.task or task,
        ids=special_ids(task.kind, loaded.facts, text.tokenizer, loaded.config, packed=True, notes=notes),
        model=(record := model_record(loaded, sizes) | lora),
        batches=text.batches,
        validation=text.validation,
        device=device,
        save_extras=saver(text.tokenizer, text.class_names),
        sampler=sampler(loaded.adapter, text.tokenizer, device) if can_sample(task, text.tokenizer) else None,
        notes=notes,
        data=data_facts(text.batches, text.held_out, look=True),
        num_tokens=text.num_tokens,
        hooks=(AdapterKeeper(loaded.module, record),) if lora else (),
        token_bytes=told,
        ranks=ranks,
    )


def model_record(loaded: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint keeps so that the model can be built again."""
    from torchstone.adapt.target import from_anywhere

    target = str(loaded.target)
    origin = {} if loaded.recipe is None else {"weights_of": from_anywhere(target)}
    if loaded.recipe is not None:
        target, overrides = loaded.recipe
    return {
        "target": from_anywhere(target),
        "name": Path(target).stem if Path(target).exists() else target.removeprefix("zoo:"),
        "class": loaded.class_name,
        "config": loaded.config,
        "overrides": {key: value for key, value in (overrides or {}).items() if value is not None},
        "fingerprint": loaded.fingerprint,
        "task": loaded.task.kind,
        **origin,
    }


def saver(tokenizer: Any, class_names: Sequence[str] = ()) -> Callable[[Path], None] | None:
    """Keep a tokenizer of ours with the run (another kind is the user's to keep), and names of classes."""
    keeps = callable(getattr(tokenizer, "save", None)) and hasattr(tokenizer, "fingerprint")
    if not keeps and not class_names:
        return None

    def save(folder: Path) -> None:
        if keeps:
            tokenizer.save(folder / "tokenizer")
        if class_names:
            write_json(folder / CLASSES, list(class_names))

    return save


def can_sample(task: TaskSpec, tokenizer: Any) -> bool:
    """Whether the model writes text that the tokenizer can show."""
    return (
        task.kind == "causal-lm"
        and hasattr(tokenizer, "eos_token_id")
        and callable(getattr(tokenizer, "encode", None))
        and callable(getattr(tokenizer, "decode", None))
    )


def sampler(adapter: Any, tokenizer: Any, device: Any) -> Callable[[int, str | None], str]:
    """Continue a prompt (or nothing) with the model as it is when asked."""

    def sample(num_tokens: int, prompt: str | None = None) -> str:
        from torchstone.adapt.continuation import continue_text
        from torchstone.adapt.generate import Sampling

        sampling = Sampling(
            max_new_tokens=num_tokens,
            temperature=0.8,
            top_k=40,
            seed=0,
            num_ids=getattr(tokenizer, "vocab_size", None),
        )
        made = continue_text(adapter, tokenizer, prompt or "", sampling)
        return f"{prompt or ''}{made.samples[0].text}"

    return sample


def describe(subject: Subject, job: TrainJob, place: Place) -> TrainResult:
    """A dry run: what would be trained, for how long, and the memory it takes at least."""
    from torchstone.adapt.lora import num_parameters
    from torchstone.optim.pruning.pruner import build_pruner
    from torchstone.optim.registry import build_optimizer
    from torchstone.train.assembly import pace_of
    from torchstone.train.auto import explained
    from torchstone.train.space import checkpoint_bytes, checkpoints_at_once, readable, state_after_a_step

    pace = pace_of(subject, job.settings)
    trainable, parameters = num_parameters(subject.module)
    weights = sum(p.numel() * p.element_size() for p in subject.module.parameters())
    learning = sum(p.numel() * p.element_size() for p in subject.module.parameters() if p.requires_grad)
    where = str(place.run_dir) if place.run_dir is not None else "a new folder under runs/"
    loop = job.settings.train
    optimizer = build_optimizer(subject.module, job.settings.optim)
    pruner = build_pruner(
        subject.module,
        optimizer,
        job.settings.prune,
        total_steps=pace.total_steps,
        optimizer_name=job.settings.optim.name,
    )
    size = checkpoint_bytes(subject.module, optimizer, {} if pruner is None else {"pruner": pruner})
    state = state_after_a_step(optimizer) + (0 if pruner is None else pruner.num_bytes)
    at_once = checkpoints_at_once(loop.keep_last, loop.keep_best, pace.saves_at_most(0))
    return TrainResult(
        run_id="",
        run_dir=str(place.run_dir or ""),
        status="planned",
        plan=[
            f"model       {subject.model['target']} ({subject.model['class']}), {parameters:,} parameters"
            + (f", {trainable:,} of them trained" if trainable != parameters else ""),
            f"task        {subject.task.kind}",
            f"data        {job.settings.data.source}: "
            + ("" if subject.num_tokens is None else f"{subject.num_tokens:,} tokens, ")
            + f"{len(subject.batches):,} batches of {loop.batch_size} per epoch"
            + ("" if subject.validation else ", no validation data"),
            f"steps       {pace.total_steps:,} ({pace.steps_per_epoch:,} per epoch, "
            f"{loop.gradient_accumulation_steps} micro-steps each)",
            f"memory      at least {(weights + learning + state) / 2**20:,.0f} MiB for weights, gradients "
            "and state (activations come on top)",
            *([] if pruner is None else [f"pruning     {pruner.words}"]),
            f"device      {subject.device}, {loop.precision}",
            *([f"auto        {chosen}"] if (chosen := explained(job.settings)) else []),
            f"disk        {readable(size)} per checkpoint, up to {at_once} at once",
            f"run folder  {where}" + (" (continued)" if place.exists else ""),
            f"dry run     nothing is written (train.dry_run, {job.settings.sources['train.dry_run']})",
        ],
        warnings=list(subject.notes),
    )
