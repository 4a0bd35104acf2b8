"""position-sensitivity: is the order of the tokens visible at all?

Two tokens change places and a third position is watched. A model without positions and without a causal
mask sees a bag of words; so does a single causal layer without positions. Deeper causal models see some order
through the mask alone, which counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchstone.checks.alter import noised
from torchstone.checks.bisect import difference
from torchstone.checks.probe import Probe, noise_floor, probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_HINT = "add position embeddings, rotary positions, relative biases or another source of order"
_FAINT = 1e-6


def position_sensitivity(context: Context) -> CheckResult:
    if not context.takes_tokens:
        return context.skipped(f"the input is {context.primary}, not tokens")
    length = min(context.plan.length, 19)
    if length < 3:
        return context.skipped("sequences are too short to exchange two tokens and watch a third")
    with probing(context) as probe:
        batch = context.batch(length=length)
        main = shown(probe.run(batch))
        if noise_floor(probe, batch) > probe.limit(main):
            return context.skipped("two equal calls differ; see state-leak and eval-determinism")
        order, content = _reactions(context, probe, batch, main)
        limit = probe.limit(main)
        fields = {"measured": order, "limit": limit, "unit": "max abs"}
        details = {"exchanged": order, "replaced": content, "ratio": order / content if content else None}
        if content <= limit:
            return context.warned(
                "nothing to see: replaced tokens do not show at the watched position",
                details=details,
                **fields,
            )
        if order > limit:
            faint = order < _FAINT * content
            say = context.warned if faint else context.passed
            summary = "the order of tokens is hardly visible" if faint else "the order of tokens is visible"
            return say(summary, details=details, hint=_HINT if faint else None, **fields)
        with noised(context):
            again = shown(probe.run(batch))
            opened, _ = _reactions(context, probe, batch, again)
        if opened > probe.limit(again):
            return context.passed(
                "the order of tokens becomes visible once its weights leave zero", details=details, **fields
            )
        return context.failed(
            "two tokens can change places and nobody notices: the model sees a bag of words",
            details=details,
            hint=_HINT,
            **fields,
        )


def _reactions(context: Context, probe: Probe, batch: Batch, main: Tensor) -> tuple[float, float]:
    """How much the watched output moves when two tokens are exchanged, and when they are replaced."""
    ids: Tensor = batch["input_ids"]
    length = ids.shape[1]
    first, second = _two_places(ids)
    exchanged = ids.clone()
    exchanged[:, [first, second]] = ids[:, [second, first]]
    replaced = ids.clone()
    others = context.batch(ids.shape[0], length=length, seed=81)["input_ids"]
    replaced[:, [first, second]] = others[:, [first, second]]

    def watched(values: Tensor) -> float:
        changed = shown(probe.run({**batch, "input_ids": values}))
        # Per token: only the last position, which saw no exchange at its own place.
        if "decoder_input_ids" not in batch and main.dim() >= 3 and main.shape[1] >= length:
            return difference(main[:, -1], changed[:, -1])
        return difference(main, changed)

    return watched(exchanged), watched(replaced)


def _two_places(ids: Tensor) -> tuple[int, int]:
    """Two early places that hold different tokens in every row, as far as possible."""
    length = ids.shape[1]
    for first in range(length - 2):
        for second in range(length - 2, first, -1):
            if bool((ids[:, first] != ids[:, second]).any()):
                return first, second
    return 0, max(1, length - 2)


CHECKS.add(
    Check(
        "position-sensitivity",
        tier=1,
        title="order is visible",
        proves="Exchanging two tokens changes what the model says.",
        run=position_sensitivity,
    )
)
