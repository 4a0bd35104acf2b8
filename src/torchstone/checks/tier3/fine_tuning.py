"""fine-tuning: a short training by the engine makes the model better on examples that it has not seen.

The held-out examples are scored before and after, and the differences are judged as those of two runs are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier3 import lesson

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

TRAINED_ON, HELD_OUT = 64, 48


def fine_tuning(context: Context) -> CheckResult:
    from torchstone.train.fine_tuning import Steps
    from torchstone.train.head_to_head import teach
    from torchstone.train.nonfinite import NonFinite

    if not any(each.requires_grad for each in context.module.parameters()):
        return context.skipped("no parameter requires a gradient")
    try:
        lesson.require_room_for_a_run(context)
        rows = lesson.rows(context, TRAINED_ON + HELD_OUT)
        recipe = lesson.recipe(context, rows[0], TRAINED_ON)
    except ModelError as error:
        return context.skipped(f"{error.what}: {error.why}")
    if not lesson.answers_to_its_weights(context, rows[0]):
        return context.failed(
            "the answer does not depend on any parameter that learns",
            hint="look for .detach(), torch.no_grad() or .data on the way to the output",
        )
    steps = Steps()
    try:
        taught = teach(
            context.loaded, rows[:TRAINED_ON], rows[TRAINED_ON:], recipe,
            device=str(context.device), hooks=(steps,),
        )  # fmt: skip
    except NonFinite as error:
        return context.failed(
            f"training breaks down: {error.what}", why=error.why or None, hint=error.next or None
        )
    found = taught.learned
    loss = found.metrics["loss"]
    said = f"held-out loss {loss.baseline:.3f} -> {loss.candidate:.3f} in {taught.result.steps} steps"
    fields: dict[str, Any] = {
        "measured": loss.delta,
        "limit": 0.0,
        "unit": "nats",
        "details": {
            "loss_history": steps.losses,
            "grad_norm_history": steps.norms,
            "initial_loss": steps.losses[0],
            "final_loss": steps.losses[-1],
            "training_time_seconds": taught.result.seconds,
            "samples_per_second": TRAINED_ON * recipe["epochs"] / max(taught.result.seconds, 1e-9),
            "amp_enabled": False,
            "recipe": recipe,
            "held_out": found.to_dict(),
        },
    }
    if loss.status == "improved":
        return context.passed(f"it learns: {said}", **fields)
    word = "gets worse" if loss.status == "regressed" else "does not learn"
    return context.failed(
        f"it {word}: {said}",
        hint="torchstone check --only gradient-flow,dead-parameters says where learning ends",
        **fields,
    )


CHECKS.add(
    Check(
        "fine-tuning",
        tier=3,
        title="training makes it better",
        proves="A short training lowers the loss on examples that were held out.",
        run=fine_tuning,
    )
)
