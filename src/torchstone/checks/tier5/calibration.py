"""calibration: the model is right as often as it says, on labelled data.

The expected calibration error of any finite sample is above zero, so it is compared with what a calibrated
model shows by chance in a sample of this size, and fails only where it is large as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._errors import DataError, ModelError, UsageError
from torchstone.checks.registry import CHECKS, Check

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult
    from torchstone.train.evaluate import EvalResult

TOLERATED, FAIL = 0.05, 0.15
"""Error up to which nothing is said, and above which the check fails."""
MOST_EXAMPLES = 2000


def calibration(context: Context) -> CheckResult:
    try:
        scored = _scored(context)
    except UsageError as missing:
        return context.skipped(missing.what, hint="--data SOURCE, or a run that has held-out data")
    except (DataError, ModelError) as unfit:
        return context.skipped(f"the model cannot be scored on this data: {unfit.what}")
    found = scored.calibration
    if found is None:
        return context.skipped(f"a model of the task {scored.task} names no classes to be sure of")
    error, chance = found["calibration_error"], found["by_chance"]
    limit = max(TOLERATED, chance)
    said = (
        f"says {found['confidence']:.1%} and is right in {found['accuracy']:.1%} of {found['targets']:,} "
        f"targets: calibration error {error:.3f}, by chance up to {chance:.3f}"
    )
    fields = {"measured": error, "limit": limit, "unit": "expected calibration error", "details": found}
    if error <= limit:
        return context.passed(said, **fields)
    sure = "too sure" if found["confidence"] > found["accuracy"] else "not sure enough"
    say = context.failed if error > max(FAIL, chance) else context.warned
    return say(
        f"{sure}: {said}",
        hint="divide the logits by a temperature fitted on held-out data (Guo et al. 2017)",
        **fields,
    )


def _scored(context: Context) -> EvalResult:
    from torchstone.train.evaluate import EvalJob, evaluate, run

    data, target = context.wishes.get("data"), context.wishes.get("target")
    if data is not None and not isinstance(data, str):
        return evaluate(context.loaded, data, task=context.task, device=str(context.device))
    if target is None:
        raise UsageError("no labelled data was named")
    job = EvalJob(
        target=target,
        data=data,
        task=context.task.kind,
        max_samples=MOST_EXAMPLES,
        trust=context.wishes.get("trust"),
        device=str(context.device),
    )
    return run(job)


CHECKS.add(
    Check(
        "calibration",
        tier=5,
        title="right as often as it says",
        proves="On labelled data the model is right as often as it says, within what chance allows.",
        run=calibration,
    )
)
