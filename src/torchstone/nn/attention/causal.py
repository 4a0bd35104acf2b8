"""Causal multi-head self-attention on torch's fused kernel, with a key-value cache.

Vaswani et al. 2017 (arXiv:1706.03762), in the GPT-2 layout: one projection makes q, k and v, biases
everywhere. The readable slow twin is `torchstone.nn.naive`. Other mechanisms replace one of the
methods that `forward` is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.heads import join_heads, require_heads, split_heads
from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.naive import naive_causal
from torchstone.nn.rotary import rotate

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class CausalSelfAttention(nn.Module):
    """`(B, T, C) -> (B, T, C)` and, where the context asks for it, the cache to go on with."""

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        require_heads(d_model, num_heads)
        self.num_heads = num_heads
        self.head_width = d_model // num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.project(x)
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores, kept = self.scores(q, k, None if past is None else past[2:])
        mixed, scores = self.mix(scores, v, context)
        return Attended(
            out=self.residual_dropout(self.finish(mixed, x, sent)),
            cache=(k, v, *kept) if context.keep_cache else (),
            weights=scores.mean_weights(context) if context.keep_weights else None,
            looked=Looked(scores, context) if context.keep_scores else None,
        )

    def project(
        self, x: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Queries, keys and values of the heads."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def scores(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], past: Cache | None
    ) -> tuple[Scores, Cache]:
        """The scores, and what else to keep for the tokens to come; `past` is what was kept before."""
        return Scores(q, k, self.head_width**-0.5), ()

    def mix(
        self, scores: Scores, v: Float[Tensor, "B H S D"], context: AttentionContext
    ) -> tuple[Float[Tensor, "B H T D"], Scores]:
        """What the heads make of the values, and the scores by which they did."""
        return scores.attend(v, context, dropout=self.dropout if self.training else 0.0), scores

    def finish(
        self, mixed: Float[Tensor, "B H T D"], x: Float[Tensor, "B T C"], sent: Handoff
    ) -> Float[Tensor, "B T C"]:
        """From what the heads mixed to what goes to the residual stream."""
        return self.out(join_heads(mixed, sent))


def causal_parameters(config: GPTConfig, layer: int) -> int:
    return 4 * config.d_model**2 + 4 * config.d_model


def causal_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    width = config.d_model // config.num_heads
    return 8 * tokens * config.d_model**2 + score_flops(tokens, width, width, config.num_heads)


def causal_cache(config: GPTConfig, layer: int, tokens: int) -> int:
    return 2 * config.d_model * tokens


RECORDS = (
    AttentionRecord(
        name="sdpa",
        summary="multi-head attention on torch's fused kernel",
        source="Vaswani et al. 2017, arXiv:1706.03762",
        make=lambda config, layer: CausalSelfAttention(config.d_model, config.num_heads, config.dropout),
        naive=naive_causal,
        parameters=causal_parameters,
        flops=causal_flops,
        cache=causal_cache,
    ),
)
