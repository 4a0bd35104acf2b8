"""RA-CT: each head's attention is moderated by a statistic of its own weights, query by query.

    g = sigmoid(scale_h * s + bias_h),  scale_h = 1 and bias_h = 2 at first;  m = 1 - strength + strength * g

s is a statistic of the row of weights (`statistics.py`). `output` multiplies the head's output by m.
`weights` multiplies the scores by m before the softmax, which makes the row's attention flatter where g is
small. From mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025), as its text defines it. Its code put the gate
behind the softmax, where both forms are one (that form is `output` here), and its output form left strength
out (`output-2025`).
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import AttentionContext
from torchstone.nn.attention.scores import Scores
from torchstone.nn.attention.statistics import row_statistic, statistic_flops
from torchstone.nn.gates import Gates

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.config import AttentionConfig
    from torchstone.nn.gpt import GPTConfig


class CrossTokenGate(Gates, nn.Module):
    """Mixes values by scores as `Scores.attend` does, moderated."""

    def __init__(self, options: AttentionConfig, num_heads: int) -> None:
        super().__init__()
        self.options = options
        self.scale = nn.Parameter(torch.ones(num_heads))
        self.bias = nn.Parameter(torch.full((num_heads,), 2.0))

    def forward(
        self, scores: Scores, v: Float[Tensor, "B H S E"], context: AttentionContext, dropout: float
    ) -> tuple[Float[Tensor, "B H T E"], Scores]:
        """What was mixed, and the scores by which it was."""
        factor = self.factor(scores, context)[..., None].to(v.dtype)
        if self.options.apply == "weights":
            extra = None if scores.q_extra is None else factor * scores.q_extra
            scores = dataclasses.replace(scores, q=factor * scores.q, q_extra=extra)
            return scores.attend(v, context, dropout=dropout), scores
        return factor * scores.attend(v, context, dropout=dropout), scores

    def factor(self, scores: Scores, context: AttentionContext) -> Float[Tensor, "B H T"]:
        options = self.options
        with torch.no_grad() if options.detach_stats else nullcontext():
            found = row_statistic(
                scores, context, options.statistic, topk=options.topk, head_average=options.head_average
            )
        gate = torch.sigmoid(self.scale[:, None] * found + self.bias[:, None])
        strength = 1.0 if options.apply == "output-2025" else options.strength
        return 1 - strength + strength * gate

    def gates(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "bias": self.bias}

    def extra_repr(self) -> str:
        return f"statistic={self.options.statistic}, apply={self.options.apply}"


def cross_token_flops(config: GPTConfig, tokens: int, width: int, window: int | None = None) -> int:
    """Of the statistic; `width` is that of the scores, extra channels included."""
    options = config.attention
    return statistic_flops(
        tokens, width, config.num_heads, window, options.statistic, head_average=options.head_average
    )
