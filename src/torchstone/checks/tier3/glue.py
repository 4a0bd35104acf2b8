"""glue: fine-tuned on a task of GLUE for a moment, the model answers better than a constant does.

The scores are the official ones; a short training on part of the rows is no leaderboard entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._errors import DataError, ModelError, Offline, UsageError
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier3 import lesson

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

MOST_ROWS = 512
"""Of each split."""


def glue(context: Context) -> CheckResult:
    from torchstone.data.glue import GLUE, read_glue
    from torchstone.train.glue import encode, glue_task

    source, tokenizer = context.wishes.get("glue"), context.wishes.get("tokenizer")
    if not source:
        return context.skipped("no data of GLUE was named", hint="--glue FOLDER, or --glue hub")
    task = GLUE.get(context.wishes.get("glue_task") or "sst2")
    if context.task.kind != task.kind:
        return context.skipped(f"{task.name} is for models of the task {task.kind}, not {context.task.kind}")
    if tokenizer is None:
        return context.skipped("the model has no tokenizer, and texts need one")
    try:
        lesson.require_room_for_a_run(context)
        rows = read_glue(task.name, source)["train"][:MOST_ROWS]
        sample = context.batch(1, length=min(64, context.facts.max_seq_len or 64))
        recipe = lesson.recipe(context, {name: each[0] for name, each in sample.items()}, len(rows))
        encode(rows[0], tokenizer, 64)
        found = glue_task(
            context.loaded, task, source, tokenizer=tokenizer, recipe=recipe, max_samples=MOST_ROWS,
            device=str(context.device), seed=context.seed,
        )  # fmt: skip
    except (ModelError, Offline) as error:
        return context.skipped(f"{error.what}: {error.why}")
    except (DataError, UsageError) as error:
        return context.failed(
            f"{task.name} cannot be run: {error.what}", hint=error.next or error.why or None
        )
    split = task.scored[0]
    told = found[split]
    low, high = told["above_constant"]
    values = ", ".join(f"{name} {told[name]:.3f}" for name in task.metrics)
    said = f"{task.name} {split}: {values} after {found['steps']} steps"
    fields = {"measured": low, "limit": 0.0, "unit": f"{task.metrics[0]} above a constant", "details": found}
    if low > 0:
        return context.passed(f"{said}, {low:+.3f} to {high:+.3f} above the best constant answer", **fields)
    return context.failed(
        f"no better than a constant answer: {said}",
        hint="torchstone check --only fine-tuning,padding-leak; look at the pooled position too",
        **fields,
    )


CHECKS.add(
    Check(
        "glue",
        tier=3,
        title="a task of GLUE",
        proves="Fine-tuned for a moment on a task of GLUE, the model beats the best constant answer.",
        run=glue,
    )
)
