"""Score a trained model: loss, perplexity, bits per byte, task metrics, and how sure they are.

    result = run(EvalJob("runs/first"))                       # a run, on its own held-out data
    result = evaluate(module, dataset, task="classification") # anything, on data at hand

The pass over the data is `validate`, the one that training makes: a run scored on its own held-out data gives
the val/loss that its training recorded, and says so if it does not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from torchstone._errors import DataError, UsageError
from torchstone._files import read_json
from torchstone.adapt.adapter import Adapter
from torchstone.adapt.load import LoadedModel, load
from torchstone.adapt.saved import checkpoint_of
from torchstone.adapt.target import parse_target
from torchstone.adapt.tokenizer_of import find_tokenizer, home_of, require_fit
from torchstone.config.resolve import Resolved, resolve
from torchstone.data.dataset import as_dataset
from torchstone.data.labelled import IMAGE_TASKS
from torchstone.data.loader import Loader
from torchstone.data.pack import TokenBlocks
from torchstone.data.task import TaskSpec
from torchstone.data.token_bytes import TokenBytes, Unknown
from torchstone.drift.confidence import Reliability
from torchstone.tracking.run_folder import RunFolder
from torchstone.train.config import SECTIONS
from torchstone.train.device import bring, choose_device
from torchstone.train.interval import FEWEST_DOCUMENTS, Units, ratio_interval
from torchstone.train.losses import LOSSES, Batch
from torchstone.train.objective import ModelObjective, validation_batches
from torchstone.train.precision import autocast_of
from torchstone.train.result import perplexity
from torchstone.train.run import CLASSES
from torchstone.train.scoring import ExampleScores, Scores, bytes_of_targets, confidences
from torchstone.train.special_ids import special_ids
from torchstone.train.text import read_text
from torchstone.train.validation import validate

if TYPE_CHECKING:
    from torchstone.tracking.checkpoint import Checkpoint

SPLITS = ("val", "train", "all")
CLASS_KINDS = ("classification", "token-classification", "vision")
LONGEST_DEFAULT_SEQUENCE = 1024
"""Tokens per block where neither the user nor a run says otherwise: the model's limit, at most this."""
SAME = 1e-5
"""Nats by which a loss may differ from the recorded one: another device or batch size rounds otherwise."""


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """What to score, and on which data."""

    target: str
    data: str | None = None
    """A source; None: of a run its own held-out data."""
    task: str | None = None
    split: str | None = None
    """val, train or all; None: val of a run's own data, all of any other."""
    batch_size: int | None = None
    max_samples: int | None = None
    sequence_length: int | None = None
    tokenizer: str | None = None
    trust: bool | None = None
    device: str | None = None
    cache_dir: Path | None = None
    progress: Callable[[int, int], None] = lambda done, total: None
    """Hears (examples done, examples in all)."""


@dataclass(kw_only=True)
class EvalResult:
    """Scores of one model on one body of data."""

    target: str
    model: dict[str, Any]
    task: str
    data: str
    split: str
    metrics: dict[str, float]
    """loss in nats per target; perplexity and bits_per_byte of language models; what the task has."""
    intervals: dict[str, list[float]]
    interval_method: str | None
    per_class: list[dict[str, Any]]
    counts: dict[str, Any]
    recorded: dict[str, Any] | None = None
    """What the run itself measured at this checkpoint, where the data is the same."""
    calibration: dict[str, Any] | None = None
    """How sure the model was and how often it was right, in bins; None where there are no classes."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    examples: ExampleScores | None = field(default=None, repr=False)
    """Scores of each example; not part of the JSON object."""

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.eval/1` object."""
        plain = dataclasses.asdict(dataclasses.replace(self, examples=None))
        del plain["examples"]
        return {"schema": "torchstone.eval/1"} | plain


# --- a target ---------------------------------------------------------------------------------------------


def run(job: EvalJob) -> EvalResult:
    """Load the target, read the data, score."""
    if job.split is not None and job.split not in SPLITS:
        raise UsageError(f"there is no split named {job.split!r}", next=f"choose one of: {', '.join(SPLITS)}")
    target = parse_target(job.target)
    home = home_of(target)
    own = home is not None and job.data is None
    loaded = load(job.target, task=job.task, trust=job.trust)
    task = dataclasses.replace(loaded.task, vocab_size=loaded.facts.vocab_size)
    split = job.split or ("val" if own else "all")
    pictures = task.kind in IMAGE_TASKS
    settings = _settings(job, home, split, None if pictures else loaded.facts.max_seq_len or math.inf)
    tokenizer = find_tokenizer(job.target, job.tokenizer)
    if home is None and job.data is None:
        raise UsageError(
            f"which data? {job.target} is no run that has held-out data of its own",
            next="torchstone eval TARGET --data SOURCE --tokenizer FILE",
        )
    if tokenizer is None and not pictures:
        raise DataError(
            f"{job.target} has no tokenizer",
            why="text must become the token ids that the model was trained on",
            next="--tokenizer bytes, a tokenizer.json or the folder of one",
        )
    if tokenizer is not None:
        require_fit(tokenizer, loaded.facts.vocab_size)
    names = _class_names(home)
    text = read_text(
        settings,
        task,
        loaded.facts,
        tokenizer=tokenizer,
        cache_dir=job.cache_dir,
        class_names=names,
    )
    task, names = text.task or task, names or text.class_names
    blocks = text.held_out if split == "val" else text.batches.dataset
    if blocks is None:
        raise DataError(
            f"{settings.data.source} has no held-out part",
            why=f"data.validation_split = {settings.data.validation_split:g}",
            next="--split all, or other data with --data",
        )
    limit = settings.data.max_val_samples if split == "val" else settings.data.max_train_samples
    device = choose_device(job.device)
    result = _score(
        loaded,
        task,
        Loader(blocks, settings.train.batch_size, shuffle=False, task=task, max_samples=limit),
        tokenizer=tokenizer,
        packed=text.num_tokens is not None,
        precision=settings.train.precision,
        device=device,
        progress=job.progress,
    )
    result.target, result.data, result.split = job.target, settings.data.source, split
    for row in result.per_class:
        row["name"] = names[row["class"]] if row["class"] < len(names) else None
    if own and split == "val" and (job.max_samples, job.sequence_length, job.tokenizer) == (None,) * 3:
        _compare(result, checkpoint_of(target))
    return result


def _class_names(home: Path | None) -> tuple[str, ...]:
    file = None if home is None else home / CLASSES
    return tuple(read_json(file)) if file is not None and file.is_file() else ()


def _settings(job: EvalJob, home: Path | None, split: str, longest: float | None) -> Resolved:
    """The run's own configuration, or the defaults; what the command line says on top.

    `longest`: tokens that the model takes; None: it takes no tokens.
    """
    if home is not None and (home / "config.json").is_file():
        settings = Resolved.from_json(SECTIONS, RunFolder.open(home).read_config())
    else:
        settings = resolve(SECTIONS)
        if longest is not None:
            length = int(max(min(longest, LONGEST_DEFAULT_SEQUENCE), 2))
            settings = settings.with_values({"data.sequence_length": length}, source="eval")
    wished: dict[str, Any] = {
        "data.source": job.data,
        "data.validation_split": 0.0 if split == "all" else None,
        "data.sequence_length": job.sequence_length,
        "data.max_val_samples": job.max_samples,
        "data.max_train_samples": job.max_samples,
        "train.batch_size": job.batch_size,
    }
    changes = {key: value for key, value in wished.items() if value is not None}
    return settings.with_values(changes, source="eval") if changes else settings


def _compare(result: EvalResult, checkpoint: Checkpoint) -> None:
    """Hold the loss against what training wrote down at this step."""
    recorded = checkpoint.metrics.get("val/loss")
    if recorded is None:
        return
    difference = result.metrics["loss"] - recorded
    result.recorded = {"step": checkpoint.step, "val/loss": recorded, "difference": difference}
    if not abs(difference) <= SAME * max(1.0, abs(recorded)):
        result.notes.append(
            f"the run recorded val/loss {recorded:.6f} at this step, {abs(difference):.2g} away: "
            "its data was passed in from Python, or has changed since"
        )


# --- a module and data at hand ----------------------------------------------------------------------------


def evaluate(
    model: nn.Module | LoadedModel | Adapter | str | Path,
    data: Any = None,
    *,
    task: TaskSpec | str | None = None,
    tokenizer: Any = None,
    collator: Callable[[Sequence[Any]], Batch] | None = None,
    batch_size: int = 8,
    max_samples: int | None = None,
    device: str | None = None,
) -> EvalResult:
    """Score `model` on `data`: a dataset, a list of tensors, or the name of a text source (for a TARGET)."""
    if isinstance(model, str | Path) and (data is None or isinstance(data, str)):
        kind = task.kind if isinstance(task, TaskSpec) else task
        return run(
            EvalJob(
                target=str(model), data=data, task=kind, batch_size=batch_size if data else None,
                max_samples=max_samples, tokenizer=tokenizer, device=device,
            )
        )  # fmt: skip
    if data is None or isinstance(data, str):
        raise UsageError("a module has no data of its own", next="evaluate(module, dataset, task=...)")
    if isinstance(model, LoadedModel):
        loaded = model
    else:
        loaded = load(model.module if isinstance(model, Adapter) else model, task=task)
    said = TaskSpec.from_name(task) if isinstance(task, str) else task or loaded.task
    whole = dataclasses.replace(said, vocab_size=said.vocab_size or loaded.facts.vocab_size)
    loader = Loader(
        as_dataset(data, whole, collator), batch_size, shuffle=False, task=whole, max_samples=max_samples
    )
    return _score(
        loaded, whole, loader, tokenizer=tokenizer, packed=False, precision="fp32",
        device=choose_device(device), progress=lambda done, total: None,
    )  # fmt: skip


# --- scoring ----------------------------------------------------------------------------------------------


def _score(
    loaded: LoadedModel,
    task: TaskSpec,
    loader: Loader,
    *,
    tokenizer: Any,
    packed: bool,
    precision: str,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> EvalResult:
    began = time.monotonic()
    notes = list(loaded.notes)
    rule = LOSSES.get(task.kind)
    bring(loaded.module, device)
    objective = ModelObjective(
        loaded.adapter,
        rule,
        special_ids(task.kind, loaded.facts, tokenizer, loaded.config, packed=packed, notes=notes),
        device,
        task.num_classes if task.num_classes is not None else task.vocab_size,
        class_weights=task.class_weights,
        model_config=loaded.config,
        notes=notes,
    )
    told = bytes_of_targets(rule, tokenizer, loader.dataset)
    objective.token_bytes = told if isinstance(told, TokenBytes) else None
    scores = Scores(
        rule, objective.token_bytes, by_class=task.kind in CLASS_KINDS, weights=objective.class_weights
    )

    reliability = Reliability()

    def observe(logits: Tensor, batch: Batch) -> None:
        scores.observe(logits, batch)
        if (told := confidences(rule, logits, batch)) is not None:
            reliability.add(told[0].numpy(), told[1].numpy())

    def batches() -> Iterator[Batch]:
        for done, (batch, _) in enumerate(loader):
            progress(min(done * loader.batch_size, loader.num_examples), loader.num_examples)
            yield batch
        progress(loader.num_examples, loader.num_examples)

    means = validate(
        loaded.module,
        objective,
        validation_batches(batches(), objective),
        autocast_of(precision, device),
        observe=observe,
    )
    assert means is not None
    units = _units(loader, tokenizer)
    metrics, intervals, method = _summary(means, scores, units, rule.has_perplexity)
    counts: dict[str, Any] = {"examples": len(scores.targets), "targets": sum(scores.targets)}
    if told is not None:
        counts |= _told_bytes(told, scores)
    return EvalResult(
        target=str(loaded.target),
        model={
            "class": loaded.class_name,
            "fingerprint": loaded.fingerprint,
            "parameters": sum(each.numel() for each in loaded.module.parameters()),
        },
        task=task.kind,
        data="given",
        split="all",
        metrics=metrics,
        intervals=intervals,
        interval_method=method,
        per_class=scores.classes.per_class if scores.classes else [],
        counts=counts,
        calibration=reliability.to_dict() if reliability.num_rows else None,
        seconds=time.monotonic() - began,
        notes=notes,
        examples=ExampleScores(
            losses=np.array(scores.losses, dtype=np.float64),
            correct=np.array(scores.correct, dtype=np.float64),
            targets=np.array(scores.targets, dtype=np.float64),
            bytes=np.array(scores.bytes, dtype=np.float64) if scores.bytes else None,
            units=units.of_example,
            unit=units.name,
            digest=scores.digest,
            answers=np.array(scores.answers) if scores.answers else None,
            asked=np.array(scores.asked) if scores.asked else None,
        ),
    )


def _told_bytes(told: TokenBytes | Unknown, scores: Scores) -> dict[str, Any]:
    if isinstance(told, Unknown):
        return {"bytes": None, "bytes_are": f"unknown: {told.why}"}
    total = sum(scores.bytes)
    if math.isnan(total):
        return {"bytes": None, "bytes_are": "unknown: the data has ids that the tokenizer does not know"}
    return {"bytes": int(total), "bytes_are": told.how}


def _summary(
    means: dict[str, float], scores: Scores, units: Units, is_text: bool
) -> tuple[dict[str, float], dict[str, list[float]], str | None]:
    metrics = dict(means)
    intervals: dict[str, tuple[float, float] | None] = {
        "loss": ratio_interval(scores.losses, scores.targets, units),
        "accuracy": ratio_interval(scores.correct, scores.targets, units) if "accuracy" in means else None,
    }
    if is_text:
        metrics["perplexity"] = perplexity(means["loss"])
        around = intervals["loss"]
        intervals["perplexity"] = None if around is None else (perplexity(around[0]), perplexity(around[1]))
    if "bits_per_byte" in means:
        bits = [each / math.log(2) for each in scores.losses]
        intervals["bits_per_byte"] = ratio_interval(bits, scores.bytes, units)
    if scores.classes is not None:
        metrics |= scores.classes.metrics
    told = {name: list(each) for name, each in intervals.items() if each is not None}
    return metrics, told, units.method if told else None


def _units(loader: Loader, tokenizer: Any) -> Units:
    """Documents where the blocks show their ends and there are enough of them, else each example."""
    places = loader.order(loader.epoch)
    blocks = loader.dataset
    if not isinstance(blocks, TokenBlocks):
        return Units("examples", np.arange(len(places)))
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        ends = np.flatnonzero(np.asarray(blocks.tokens) == eos)
        documents = Units("documents", np.searchsorted(ends, places * blocks.sequence_length))
        if documents.count >= FEWEST_DOCUMENTS:
            return documents
    return Units("blocks", np.arange(len(places)))
