"""Reciprocal attention on ordinary heads: `sdpa` with the term of `reciprocity.py` in its scores.

Parameters and their names are those of `sdpa`, with one alpha more where it is learned, so that the two can
start from the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention.causal import CausalSelfAttention, causal_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
from torchstone.nn.attention.heads import join_heads, split_heads
from torchstone.nn.attention.naive import naive_reciprocal
from torchstone.nn.attention.reciprocity import Reciprocity, make_reciprocity
from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.scores import score_flops
from torchstone.nn.rotary import rotate

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class ReciprocalAttention(CausalSelfAttention):
    def __init__(self, d_model: int, num_heads: int, reciprocity: Reciprocity, dropout: float = 0.0) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.reciprocity = reciprocity

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores, kept = self.reciprocity(q, k, self.head_width**-0.5, None if past is None else past[2])
        mixed = scores.attend(v, context, dropout=self.dropout if self.training else 0.0)
        return Attended(
            out=self.residual_dropout(self.out(join_heads(mixed, sent))),
            cache=(k, v, *kept) if context.keep_cache else (),
            weights=scores.mean_weights(context) if context.keep_weights else None,
        )


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
        source="mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025), as it was meant",
        make=lambda config, layer: ReciprocalAttention(
            config.d_model, config.num_heads, make_reciprocity(config), config.dropout
        ),
        naive=naive_reciprocal,
        parameters=lambda config, layer: causal_parameters(config, layer) + config.attention.learn_alpha,
        flops=_flops,
        cache=_cache,
    ),
)
