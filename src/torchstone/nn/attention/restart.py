"""Self-restart: each head gives a part of its output back to the token's own value.

    y = (1 - a_h) SDPA(q, k, v) + a_h v,   a_h learned, .05 at first and never outside [0, .5]

mcgrof/AdamWPrune: gpt2/ra.py (2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.causal import (
    CausalSelfAttention,
    causal_cache,
    causal_flops,
    causal_parameters,
)
from torchstone.nn.attention.context import AttentionContext
from torchstone.nn.attention.naive_heads import naive_restart
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores
from torchstone.nn.gates import Gates

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig

START, LARGEST = 0.05, 0.5


class Restart(Gates, nn.Module):
    """What was mixed, moved towards the own value."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((num_heads,), START))

    def forward(
        self, mixed: Float[Tensor, "B H T D"], v: Float[Tensor, "B H S D"]
    ) -> Float[Tensor, "B H T D"]:
        share = self.gates()["share"][:, None, None]
        return (1 - share) * mixed + share * v[:, :, v.shape[2] - mixed.shape[2] :]

    def gates(self) -> dict[str, Tensor]:
        return {"share": self.share.clamp(0, LARGEST)}


class RestartAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.restart = Restart(config.num_heads)

    def mix(
        self, scores: Scores, v: Float[Tensor, "B H S D"], context: AttentionContext
    ) -> tuple[Float[Tensor, "B H T D"], Scores]:
        mixed, scores = super().mix(scores, v, context)
        return self.restart(mixed, v), scores


RECORDS = (
    AttentionRecord(
        name="self-restart",
        summary="sdpa that gives a part of its output back to the token's own value",
        equation="y_i = (1 - a_h) sdpa_i + a_h v_i",
        source="mcgrof/AdamWPrune: gpt2/ra.py (2025)",
        make=lambda config, layer: RestartAttention(config),
        naive=naive_restart,
        parameters=lambda config, layer: causal_parameters(config, layer) + config.num_heads,
        flops=causal_flops,
        cache=causal_cache,
        qk_width=head_width,
    ),
)
