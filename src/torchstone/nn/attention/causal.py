"""Causal multi-head self-attention on torch's fused kernel, with a key-value cache.

Vaswani et al. 2017 (arXiv:1706.03762), in the GPT-2 layout: one projection makes q, k and v, biases
everywhere. The readable slow twin is `torchstone.nn.naive`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
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
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        if past is not None:
            k = torch.cat([past[0], k], dim=2)
            v = torch.cat([past[1], v], dim=2)
        scores = Scores(q, k, self.head_width**-0.5)
        mixed = scores.attend(v, context, dropout=self.dropout if self.training else 0.0)
        return Attended(
            out=self.residual_dropout(self.out(join_heads(mixed, sent))),
            cache=(k, v) if context.keep_cache else (),
            weights=scores.mean_weights(context) if context.keep_weights else None,
        )


def causal_parameters(config: GPTConfig, layer: int) -> int:
    return 4 * config.d_model**2 + 4 * config.d_model


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    width = config.d_model // config.num_heads
    return 8 * tokens * config.d_model**2 + score_flops(tokens, width, width, config.num_heads)


RECORDS = (
    AttentionRecord(
        name="sdpa",
        summary="multi-head attention on torch's fused kernel",
        source="Vaswani et al. 2017, arXiv:1706.03762",
        make=lambda config, layer: CausalSelfAttention(config.d_model, config.num_heads, config.dropout),
        naive=naive_causal,
        parameters=causal_parameters,
        flops=_flops,
        cache=lambda config, layer, tokens: 2 * config.d_model * tokens,
    ),
)
