"""benchmark: trained alike on as many tokens, the model ends no worse than a baseline that the user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._errors import ModelError
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier3 import lesson

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult


def benchmark(context: Context) -> CheckResult:
    from torchstone.adapt.load import load
    from torchstone.train.head_to_head import DRAWN, benchmark_comparison
    from torchstone.train.lessons import KINDS

    target = context.wishes.get("baseline")
    if not target:
        return context.skipped("no baseline was named", hint="--baseline TARGET, for example zoo:gpt-nano")
    if context.task.kind not in KINDS:
        return context.skipped(f"there is nothing to teach a model of the task {context.task.kind}")
    try:
        lesson.require_room_for_a_run(context)
        recipe = lesson.recipe(context, lesson.rows(context, 1)[0], DRAWN)
    except ModelError as error:
        return context.skipped(f"{error.what}: {error.why}")
    baseline = load(target, trust=context.wishes.get("trust"), seed=context.seed)
    found = benchmark_comparison(
        context.loaded, baseline, recipe=recipe, device=str(context.device), seed=context.seed
    )
    loss = found["after_training"]["metrics"]["loss"]
    ratio = found["parameter_count"]["ratio"]
    said = (
        f"after {found['tokens']:,} tokens the loss is {loss['candidate']:.3f}, that of "
        f"{found['baseline_model']} {loss['baseline']:.3f}, with {ratio:.2g} times its parameters"
    )
    fields = {"measured": loss["delta"], "limit": 0.0, "unit": "nats above the baseline", "details": found}
    if loss["status"] == "regressed":
        return context.failed(
            f"worse than the baseline: {said}",
            hint="a larger share of the budget, another learning rate, or a mechanism that does not learn",
            **fields,
        )
    word = "better than" if loss["status"] == "improved" else "no worse than"
    return context.passed(f"{word} the baseline: {said}", **fields)


CHECKS.add(
    Check(
        "benchmark",
        tier=3,
        title="against a baseline",
        proves="Trained on the same tokens in the same order, the model ends no worse than the baseline.",
        run=benchmark,
    )
)
