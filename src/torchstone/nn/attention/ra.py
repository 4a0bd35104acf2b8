"""Reciprocal attention on ordinary heads: `sdpa` with the term of `reciprocity.py` in its scores.

Parameters and their names are those of `sdpa`, with one alpha more where it is learned, so that the two can
start from the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchstone.nn.attention.causal import CausalSelfAttention, causal_parameters
from torchstone.nn.attention.context import Cache
from torchstone.nn.attention.naive import naive_heads_attention
from torchstone.nn.attention.reciprocity import make_reciprocity
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, score_flops

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class ReciprocalAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.reciprocity = make_reciprocity(config)

    def scores(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], past: Cache | None
    ) -> tuple[Scores, Cache]:
        return self.reciprocity(q, k, self.head_width**-0.5, past)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    D = config.d_model // config.num_heads
    scores = score_flops(tokens, 2 * D, D, config.num_heads, config.attention.window)
    return 8 * tokens * config.d_model**2 + scores


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    window = config.attention.window
    return config.d_model * (2 * tokens + (tokens if window is None else min(tokens, window)))


RECORDS = (
    AttentionRecord(
        name="ra",
        summary="scores have a reciprocal term in a causal band",
        equation="sdpa with S_ij + alpha S_ji where i - j <= window",
        source="mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025), as it was meant",
        make=lambda config, layer: ReciprocalAttention(config),
        naive=naive_heads_attention,
        parameters=lambda config, layer: causal_parameters(config, layer) + config.attention.learn_alpha,
        flops=_flops,
        cache=_cache,
        score_width=lambda config: 2 * head_width(config),
        qk_width=head_width,
    ),
)
