"""attention-patterns: what each head looks at, and whether heads have collapsed.

The weights are read by `attention_maps`, which proves itself. A head has collapsed if its rows put more
than 0.9 on one key on average, or have less than 0.1 nats of entropy; rows that see one key only do not
count, since the first row of a causal model can do nothing else.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone._errors import ModelError
from torchstone.checks.attention_maps import AttentionMap, read_attention
from torchstone.checks.registry import CHECKS, Check

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

PEAKED, LOW_ENTROPY = 0.9, 0.1
SUM = 1e-3
"""By which a row of weights may miss one."""
SHOWN = 32
"""Queries and keys of the maps that the report keeps."""


MOST_HEADS = 192
"""Heads that the page draws; of a deeper model some layers are left out."""


@dataclass(frozen=True)
class LayerPattern:
    """One attention, over its heads and the rows that see more than one key."""

    module: str
    heads: int
    entropy: float
    """Mean over rows, nats."""
    max_weight: float
    """Mean over rows of the largest weight."""
    specialization: float
    """Mean over positions of the standard deviation across heads."""
    collapsed_heads: tuple[int, ...]
    row_sum: tuple[float, float]
    """Smallest and largest sum of a row that sees anything."""
    column_sum: tuple[float, float]

    @property
    def collapsed(self) -> bool:
        return 2 * len(self.collapsed_heads) > self.heads


def pattern_of(found: AttentionMap) -> LayerPattern:
    weights = found.weights
    sums, columns = weights.sum(-1), weights.sum(-2)
    seen = (weights > 0).sum(-1)
    entropy = -(torch.xlogy(weights, weights)).sum(-1)
    largest = weights.amax(-1)
    counted = seen > 1
    rows = counted.float()
    per_head = rows.sum((0, 2)).clamp(min=1)
    head_entropy = (entropy * rows).sum((0, 2)) / per_head
    head_largest = (largest * rows).sum((0, 2)) / per_head
    anything = rows.sum((0, 2)) > 0
    fallen = anything & ((head_largest > PEAKED) | (head_entropy < LOW_ENTROPY))
    visible = sums[seen > 0]
    return LayerPattern(
        module=found.module,
        heads=weights.shape[1],
        entropy=float(head_entropy[anything].mean()) if anything.any() else 0.0,
        max_weight=float(head_largest[anything].mean()) if anything.any() else 1.0,
        specialization=float(weights.std(1, unbiased=False).mean()) if weights.shape[1] > 1 else 0.0,
        collapsed_heads=tuple(fallen.nonzero().flatten().tolist()),
        row_sum=_ends(visible),
        column_sum=_ends(columns),
    )


def attention_patterns(context: Context) -> CheckResult:
    batch = context.batch(2 if context.plan.batch_size > 1 else 1, length=min(context.plan.length, SHOWN))
    try:
        maps = read_attention(context, batch)
    except ModelError as error:
        return context.skipped(f"{error.what}: {error.why}")
    if not maps:
        return context.skipped(
            "no softmax over keys multiplies values: there is no softmax attention to read"
        )
    patterns = [pattern_of(each) for each in maps]
    details: dict[str, Any] = {
        "num_layers": len(patterns),
        "collapsed_layers": [place for place, each in enumerate(patterns) if each.collapsed],
        "attention_entropy": [round(each.entropy, 6) for each in patterns],
        "head_specialization_scores": [round(each.specialization, 6) for each in patterns],
        "layers": [asdict(each) for each in patterns],
        "maps": [_picture(maps[place]) for place in sorted({0, len(maps) - 1})],
        "heads": [_heads(maps[place]) for place in _drawn(maps)],
        "layers_not_drawn": len(maps) - len(_drawn(maps)),
    }
    fields: dict[str, Any] = {
        "measured": sum(each.entropy for each in patterns) / len(patterns),
        "unit": "nats",
        "details": details,
    }
    for each in patterns:
        if _wrong_axis(each):
            return context.failed(
                f"the weights of a query sum to {each.row_sum[0]:.3g} and up, those of a key to one",
                module=each.module or None,
                hint="take the softmax over keys, the last axis of the scores",
                **fields,
            )
    fallen = [each for each in patterns if each.collapsed]
    if fallen:
        say = context.failed if 2 * len(fallen) > len(patterns) else context.warned
        return say(
            f"in {len(fallen)} of {len(patterns)} layers most heads look at one key only",
            module=fallen[0].module or None,
            hint="look at the scale of the scores, 1/sqrt(head width), and at the size of queries and keys",
            **fields,
        )
    sinks = [each for each in patterns if each.row_sum[0] < 1 - SUM]
    more = f"; in {len(sinks)} of them rows sum to less than one, as with attention sinks" if sinks else ""
    return context.passed(
        f"{len(patterns)} layers read and proven: entropy {fields['measured']:.2f} nats, "
        f"{sum(len(each.collapsed_heads) for each in patterns)} collapsed heads{more}",
        **fields,
    )


def _wrong_axis(pattern: LayerPattern) -> bool:
    low, high = pattern.row_sum
    return (high > 1 + SUM or low < 1 - SUM) and all(abs(each - 1) < SUM for each in pattern.column_sum)


def _ends(values: Tensor) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.numel() else (1.0, 1.0)


def _drawn(maps: list[AttentionMap]) -> list[int]:
    """Places of the layers that are drawn, evenly spaced and both ends among them."""
    heads = max(each.weights.shape[1] for each in maps)
    count = max(2, min(len(maps), MOST_HEADS // heads))
    return sorted({round(place * (len(maps) - 1) / max(1, count - 1)) for place in range(count)})


def _heads(found: AttentionMap) -> dict[str, Any]:
    """Every head of the first row of the batch as levels of the square root of its weights, in base64."""
    weights = found.weights[0, :MOST_HEADS, :SHOWN, :SHOWN]
    levels = (weights.clamp(0, 1).sqrt() * 255).round().to(torch.uint8)
    entropy = -torch.xlogy(weights, weights).sum(-1).mean(-1)
    return {
        "module": found.module,
        "keys": levels.shape[-1],
        "entropy": [round(float(each), 4) for each in entropy],
        "weights": [base64.b64encode(each.numpy().tobytes()).decode("ascii") for each in levels],
    }


def _picture(found: AttentionMap) -> dict[str, Any]:
    """The first row of the batch, mean over heads."""
    mean = found.weights[0].mean(0)[:SHOWN, :SHOWN]
    return {"module": found.module, "weights": [[round(float(each), 4) for each in row] for row in mean]}


CHECKS.add(
    Check(
        "attention-patterns",
        tier=2,
        title="what heads look at",
        proves="Attention weights, read and proven by the answer, are spread over keys and not collapsed.",
        run=attention_patterns,
    )
)
