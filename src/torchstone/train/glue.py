"""`glue`: a model is fine-tuned on tasks of GLUE and scored by their official metrics.

    found = glue(lambda task: Classifier(task.num_classes or 1), ["sst2", "stsb"], "data/glue", tokenizer=tok)
    found["tasks"]["sst2"]["validation"]["accuracy"], found["score"]

Training and scoring are the engine's. The score of a task is the mean of its metrics (over both splits of
mnli), that of the benchmark the mean over its tasks without the diagnostic set, as on the leaderboard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchstone._errors import UsageError
from torchstone.adapt.load import LoadedModel, load
from torchstone.data.glue import GLUE, GlueTask, Row, read_glue
from torchstone.data.task import TaskSpec
from torchstone.train.evaluate import EvalResult
from torchstone.train.head_to_head import teach
from torchstone.train.official_metrics import METRICS, Values

if TYPE_CHECKING:
    from torch import nn

LONGEST = 128
"""Tokens of both texts together, where the model takes as many."""
RECIPE: Mapping[str, Any] = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-5}
RESAMPLES = 2000


def glue(
    model: nn.Module | LoadedModel | Callable[[GlueTask], nn.Module],
    tasks: Sequence[str] = (),
    source: str | Path | None = None,
    *,
    tokenizer: Any,
    recipe: Mapping[str, Any] | None = None,
    max_samples: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune and score on each task; none named: all of them.

    `model` is trained in place, so several tasks need a function that makes a new one for a `GlueTask`.
    `source` is a folder (see `read_glue`) or None for the hub. Returns `tasks` (task -> split -> metric ->
    value, with `score`, `constant` and `above_constant`), and `score`.
    """
    from torch import nn

    names = list(tasks) or GLUE.names()
    chosen = [GLUE.get(name) for name in names]
    made = isinstance(model, nn.Module | LoadedModel)
    if made and len(chosen) > 1:
        raise UsageError(
            "one model cannot be fine-tuned on several tasks in turn",
            why="each begins from the same weights, and with as many outputs as it has classes",
            next="glue(lambda task: make_model(task.num_classes or 1), tasks)",
        )
    found = {}
    for task in chosen:
        net: Any = model if made else model(task)  # type: ignore[operator]
        found[task.name] = glue_task(
            net,
            task,
            source,
            tokenizer=tokenizer,
            recipe=recipe,
            max_samples=max_samples,
            device=device,
            seed=seed,
        )
    ranked = [each["score"] for name, each in found.items() if name != "ax"]
    return {"tasks": found, "score": sum(ranked) / len(ranked) if ranked else None}


def glue_task(
    model: nn.Module | LoadedModel,
    task: GlueTask,
    source: str | Path | None = None,
    *,
    tokenizer: Any,
    recipe: Mapping[str, Any] | None = None,
    max_samples: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """One task: split -> official metrics, and by how much the first is above the best constant answer."""
    loaded = _for_task(model, task)
    rows = read_glue(task.name, source)
    limit = min(LONGEST, loaded.facts.max_seq_len or LONGEST)
    data = {
        split: [encode(row, tokenizer, limit) for row in each[: max_samples or None]]
        for split, each in rows.items()
    }
    how = {**RECIPE, "random_seed": seed, **(recipe or {})}
    first, *others = task.scored
    lesson = teach(loaded, data["train"], data[first], how, device=device)
    results: dict[str, EvalResult] = {first: lesson.after}
    for split in others:
        from torchstone.train.evaluate import evaluate

        results[split] = evaluate(loaded, data[split], batch_size=how["batch_size"], device=device)
    found: dict[str, Any] = {}
    for split, result in results.items():
        assert result.examples is not None
        said, true = result.examples.answers, result.examples.asked
        assert said is not None and true is not None  # a classifier and a regressor have one target per row
        found[split] = scored(task, said, true, seed)
    found["score"] = sum(found[split]["score"] for split in results) / len(results)
    found["steps"], found["examples"] = lesson.result.steps, len(data["train"])
    return found


def scored(task: GlueTask, said: Values, true: Values, seed: int = 0) -> dict[str, Any]:
    """The official metrics; `above_constant` is an interval of the first one's lead over a constant."""
    metrics = {name: METRICS[name](said, true) for name in task.metrics}
    rank = METRICS[task.metrics[0]]
    values, counts = np.unique(true, return_counts=True)
    constant = np.full_like(true, values[counts.argmax()])
    generator = np.random.default_rng(seed)
    leads = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(true), size=len(true))
        leads.append(rank(said[drawn], true[drawn]) - rank(constant[drawn], true[drawn]))
    low, high = np.quantile(leads, [0.025, 0.975])
    return {
        **metrics,
        "score": sum(metrics.values()) / len(metrics),
        "constant": rank(constant, true),
        "above_constant": [float(low), float(high)],
        "rows": len(true),
    }


def encode(row: Row, tokenizer: Any, limit: int) -> dict[str, Any]:
    """Both texts as one sequence of at most `limit` tokens; the longer one is cut first.

    A tokenizer of transformers puts its own marks between them, ours its end mark, or a line break.
    """
    texts = row["texts"]
    if hasattr(tokenizer, "build_inputs_with_special_tokens") or hasattr(tokenizer, "special_tokens_map"):
        made = tokenizer(*texts, truncation=True, max_length=limit)
        return {name: list(values) for name, values in made.items()} | {"labels": row["labels"]}
    parts = [list(tokenizer.encode(text)) for text in texts]
    end = getattr(tokenizer, "eos_token_id", None)
    between = [end] if end is not None else list(tokenizer.encode("\n"))
    room = limit - len(between) * (len(parts) - 1)
    while sum(map(len, parts)) > room:
        max(parts, key=len).pop()
    ids = parts[0] + [each for part in parts[1:] for each in (*between, *part)]
    return {"input_ids": ids, "labels": row["labels"]}


def _for_task(model: nn.Module | LoadedModel, task: GlueTask) -> LoadedModel:
    """The model with the task's kind; one with too few classes is a UsageError before anything is trained."""
    spec = TaskSpec(kind=task.kind, name=f"glue-{task.name}", num_classes=task.num_classes)
    loaded = model if isinstance(model, LoadedModel) and model.task.kind == task.kind else load(
        model.module if isinstance(model, LoadedModel) else model, task=spec
    )  # fmt: skip
    known = loaded.facts.num_classes
    if task.num_classes is not None and known is not None and known < task.num_classes:
        raise UsageError(
            f"GLUE {task.name} has {task.num_classes} classes and the model tells {known} apart",
            next=f"give it {task.num_classes} outputs",
        )
    return loaded
