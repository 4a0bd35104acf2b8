"""amp-speedup: what bf16 gives here, over whole optimizer steps, and whether it trains as fp32 does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._errors import ModelError
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier3 import lesson

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

AGREES = 0.05
"""Relative difference that the losses of all steps stay within."""


def amp_speedup(context: Context) -> CheckResult:
    from torchstone.train.amp import ROUNDS, WARM_UP
    from torchstone.train.amp import amp_speedup as measure

    if not any(each.requires_grad for each in context.module.parameters()):
        return context.skipped("no parameter requires a gradient")
    try:
        rows = lesson.rows(context, 8 * lesson.BATCH_SIZE)
        recipe = lesson.recipe(context, rows[0], (ROUNDS + WARM_UP) * lesson.BATCH_SIZE)
        found = measure(
            context.loaded, rows, batch_size=lesson.BATCH_SIZE, learning_rate=recipe["learning_rate"],
            device=str(context.device), seed=context.seed,
        )  # fmt: skip
    except ModelError as error:
        return context.skipped(f"{error.what}: {error.why}")
    low, high = found.interval
    said = (
        f"a step in {found.precision} is {found.speedup:.2f} times as fast as in fp32 [{low:.2f}, {high:.2f}]"
    )
    fields = {
        "measured": found.drift,
        "limit": AGREES,
        "unit": "relative difference of the loss",
        "details": {
            "speedup": found.speedup,
            "speedup_interval": list(found.interval),
            "step_seconds": {"fp32": found.seconds[0], found.precision: found.seconds[1]},
            "losses": {"fp32": found.losses[0], found.precision: found.losses[1]},
            "device": found.device,
        },
    }
    if not found.drift <= AGREES:
        return context.failed(
            f"{found.precision} trains differently: the loss is up to {found.drift:.1%} away; {said}",
            hint="torchstone check --only low-precision names the module that loses the bits",
            **fields,
        )
    if high < 1:
        return context.warned(
            f"{found.precision} is slower here: {said}", hint="leave train.precision at fp32", **fields
        )
    return context.passed(said, **fields)


CHECKS.add(
    Check(
        "amp-speedup",
        tier=3,
        title="gain of bf16",
        proves="Steps in bf16 give the losses of fp32; their speed is told as measured, on this machine.",
        run=amp_speedup,
    )
)
