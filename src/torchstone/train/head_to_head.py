"""Two models trained alike, and what came of it: `benchmark_comparison`.

    found = benchmark_comparison(model, "zoo:gpt-nano", data=rows)
    found["perplexity"], found["after_training"]["verdict"]

Both see the same examples in the same order, as many tokens, with the same recipe; held-out examples are
scored before and after, example by example. Speed is measured in alternating passes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from torchstone._errors import UsageError
from torchstone.adapt.load import LoadedModel, load
from torchstone.adapt.lora import num_parameters
from torchstone.data.dataset import as_dataset
from torchstone.train.device import bring, choose_device
from torchstone.train.evaluate import EvalResult, evaluate
from torchstone.train.lessons import Row, lessons
from torchstone.train.regression_testing import Regression, compare
from torchstone.train.result import TrainResult
from torchstone.train.trainer import Trainer
from torchstone.train.training_config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from torchstone.data.task import TaskSpec

DRAWN, HELD_OUT = 64, 48
"""Examples that are drawn where no data is given."""
SELDOM = 1_000_000
"""Steps between checkpoints that nobody will ask for."""
ROUNDS = 7
"""Alternating passes that the speed is told from."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One short training, and the held-out data before and after it."""

    before: EvalResult
    after: EvalResult
    result: TrainResult

    @property
    def learned(self) -> Regression:
        """What training did to the held-out examples."""
        return compare(self.before, self.after)


def teach(
    model: LoadedModel,
    train_data: Sequence[Any],
    held_out: Sequence[Any],
    recipe: Mapping[str, Any],
    *,
    task: TaskSpec | None = None,
    tokenizer: Any = None,
    collator: Any = None,
    device: str | None = None,
    hooks: Sequence[object] = (),
) -> Lesson:
    """Train `model` in place, in a folder that is removed; `recipe`: fields of TrainingConfig."""
    with tempfile.TemporaryDirectory(prefix="torchstone-lesson-") as folder:
        run = {
            "dashboard": False,
            "keep_last": 1,
            "checkpoint_every": SELDOM,
            "checkpoint_dir": f"{folder}/run",
        }
        config = TrainingConfig(**{**run, **recipe})
        trainer = Trainer(
            model, config, task=task, tokenizer=tokenizer, collator=collator, hooks=hooks, device=device
        )
        scored = {"task": trainer.task, "tokenizer": tokenizer, "collator": collator, "device": device}
        before = evaluate(trainer.loaded, held_out, batch_size=config.batch_size, **scored)
        result = trainer.train(train_data)
        after = evaluate(trainer.loaded, held_out, batch_size=config.batch_size, **scored)
    return Lesson(before=before, after=after, result=result)


def benchmark_comparison(
    model: nn.Module | LoadedModel | str | Path,
    baseline: nn.Module | LoadedModel | str | Path,
    data: Sequence[Any] | None = None,
    held_out: Sequence[Any] | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
    task: TaskSpec | str | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Both models are trained in place. Keys: parameter_count, inference_speed_ms, perplexity (each custom,
    baseline and a ratio), loss, baseline_model, tokens, before_training and after_training.

    Without data, `lessons` of ids that both know are drawn. A baseline of another task is a UsageError.
    """
    custom, other = (
        each if isinstance(each, LoadedModel) else load(each, task=task) for each in (model, baseline)
    )
    if custom.task.kind != other.task.kind:
        raise UsageError(
            f"{other.target} is no baseline for {custom.target}",
            why=f"its task is {other.task.kind}, and that of the model is {custom.task.kind}",
            next="name a baseline of the same task",
        )
    if data is None:
        rows = _common_lessons(custom, other, seed)
        data, held_out = rows[:DRAWN], rows[DRAWN:]
    if held_out is None:
        raise UsageError("data without held_out can be trained on and not scored", next="held_out=...")
    how = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "random_seed": seed, **(recipe or {})}
    speed = _speeds(custom, other, data, how["batch_size"], device)
    ours, theirs = (teach(each, data, held_out, how, device=device) for each in (custom, other))
    if ours.result.tokens != theirs.result.tokens:
        raise UsageError(
            "the two were not trained on equally many tokens",
            where=f"{ours.result.tokens:,} and {theirs.result.tokens:,}",
            why="their tasks count different targets of the same examples",
        )
    found: dict[str, Any] = {
        "parameter_count": _pair(num_parameters(custom.module)[1], num_parameters(other.module)[1]),
        "inference_speed_ms": {"custom": speed[0], "baseline": speed[1], "speedup": speed[2]},
        "loss": _pair(ours.after.metrics["loss"], theirs.after.metrics["loss"]),
        "baseline_model": str(other.target),
        "tokens": ours.result.tokens,
        "steps": ours.result.steps,
        "seconds": _pair(ours.result.seconds, theirs.result.seconds),
        "before_training": compare(theirs.before, ours.before).to_dict(),
        "after_training": compare(theirs.after, ours.after).to_dict(),
    }
    if "perplexity" in ours.after.metrics:
        found["perplexity"] = _pair(ours.after.metrics["perplexity"], theirs.after.metrics["perplexity"])
    return found


def _pair(custom: float, baseline: float) -> dict[str, float | None]:
    return {"custom": custom, "baseline": baseline, "ratio": custom / baseline if baseline else None}


def _common_lessons(custom: LoadedModel, other: LoadedModel, seed: int) -> list[Row]:
    sizes = [each.facts.vocab_size for each in (custom, other) if each.facts.vocab_size]
    limits = [each.facts.max_seq_len for each in (custom, other) if each.facts.max_seq_len]
    return lessons(
        custom.adapter,
        DRAWN + HELD_OUT,
        length=min([32, *limits]),
        seed=seed,
        below=min(sizes) if len(set(sizes)) > 1 else None,
    )


def _speeds(
    custom: LoadedModel, other: LoadedModel, data: Sequence[Any], batch_size: int, device: str | None
) -> tuple[float, float, float]:
    """Milliseconds per example of each in evaluation mode, and the median of the ratios baseline / custom."""
    where = choose_device(device)
    times: tuple[list[float], list[float]] = ([], [])
    both = (custom, other)
    batches = []
    for each in both:
        bring(each.module, where)
        batch = as_dataset(list(data[:batch_size]), each.task).batch(range(min(batch_size, len(data))))
        batches.append({name: value.to(where) for name, value in batch.items() if name != "labels"})
    for turn in range(ROUNDS + 1):
        for place in (0, 1) if turn % 2 else (1, 0):
            spent = _pass(both[place], batches[place], where)
            if turn:  # the first round warms up
                times[place].append(1e3 * spent / min(batch_size, len(data)))
    ratio = median(slow / quick for quick, slow in zip(*times, strict=True))
    return median(times[0]), median(times[1]), ratio


def _pass(model: LoadedModel, batch: dict[str, Any], device: torch.device) -> float:
    was = model.module.training
    model.module.eval()
    try:
        with torch.no_grad():
            began = time.perf_counter()
            model.adapter(**batch)
            if device.type != "cpu":
                torch.accelerator.synchronize()
            return time.perf_counter() - began
    finally:
        model.module.train(was)
