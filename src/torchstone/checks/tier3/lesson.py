"""What the checks of tier 3 share: data, and a short recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError
from torchstone.checks.tier1.footprint import cost_of

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.train.lessons import Row

LENGTH = 32
BATCH_SIZE = 8
LEARNING_RATES = 3e-4, 3e-3
"""The slowest and the quickest; wider models learn more slowly."""
_WORK = 2e11
"""Multiply-adds that one training may take: counted, not timed, so that every machine plans alike."""
_FEWEST_STEPS = 6


def rows(context: Context, count: int) -> list[Row]:
    """Lessons for the model; a ModelError where its task has none."""
    from torchstone.train.lessons import lessons

    limit = context.facts.max_seq_len
    length = min(LENGTH, context.plan.length, limit or LENGTH)
    return lessons(context.adapter, count, length=length, seed=context.seed)


def recipe(context: Context, sample: Row, num_rows: int) -> dict[str, Any]:
    """Epochs that the budget of work allows, and a learning rate for the model's width."""
    per_pass = 3 * num_rows * max(1, cost_of(context, _alone(context, sample)).multiply_adds)
    steps_per_pass = -(-num_rows // BATCH_SIZE)
    epochs = min(context.plan.train_steps // steps_per_pass + 1, int(_WORK // per_pass))
    if epochs * steps_per_pass < _FEWEST_STEPS:
        raise ModelError(
            "the model is too large for a short training within the budget",
            why=f"a pass over {num_rows} examples takes {per_pass:.1e} multiply-adds of at most {_WORK:.0e}",
            next="train it with torchstone train",
        )
    slowest, quickest = LEARNING_RATES
    return {
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "learning_rate": min(quickest, max(slowest, 0.1 / (context.facts.d_model or 64))),
        "random_seed": context.seed,
    }


def require_room_for_a_run(context: Context) -> None:
    """A run records its environment with git and uname, for which the worker would blame the model."""
    if context.wishes.get("isolated"):
        raise ModelError(
            "a run cannot be made in the isolated worker",
            why="it records its environment with git, and the worker lets no program be started; "
            "--trust trains the model here",
        )


def answers_to_its_weights(context: Context, sample: Row) -> bool:
    """Whether a gradient can come back from the answer at all."""
    return bool(context.main(_alone(context, sample), train=True, grad=True).requires_grad)


def _alone(context: Context, sample: Row) -> dict[str, Any]:
    """A batch of one."""
    return {name: value[None].to(context.device) for name, value in sample.items() if name != "labels"}
