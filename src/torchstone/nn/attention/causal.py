"""Causal multi-head self-attention on torch's fused kernel, with a key-value cache.

Vaswani et al. 2017 (arXiv:1706.03762), in the GPT-2 layout: one projection makes q, k and v. With `qk_norm`
each head's queries and keys pass an RMSNorm, learned per channel and shared by the heads, before they are
turned (Henry et al. 2020, arXiv:2010.04245, had the idea with the L2 norm; so did Qwen3, arXiv:2505.09388).
The readable slow twin is `torchstone.nn.naive`. Other mechanisms replace one of the methods that `forward`
is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.heads import join_heads, require_heads, split_heads
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.naive import naive_causal
from torchstone.nn.rotary import rotate

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class CausalSelfAttention(nn.Module):
    """`(B, T, C) -> (B, T, C)` and, where the context asks for it, the cache to go on with."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C = config.d_model
        require_heads(C, config.num_heads)
        self.num_heads = config.num_heads
        self.head_width = C // config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(C, 3 * C, bias=config.bias)
        self.out = nn.Linear(C, C, bias=config.bias)
        self.residual_dropout = nn.Dropout(config.dropout)
        self.query_norm, self.key_norm = (
            nn.RMSNorm(self.head_width, eps=config.norm_eps) if config.qk_norm else None for _ in range(2)
        )

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.prepare(x, context)
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

    def prepare(
        self, x: Float[Tensor, "B T C"], context: AttentionContext
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Queries, keys and values of the heads; normed and turned where the model asks for it."""
        q, k, v = self.project(x)
        if self.query_norm is not None and self.key_norm is not None:
            # Under autocast the projections are in 16 bits, and the norm's weights are not.
            dtype = self.query_norm.weight.dtype
            q, k = self.query_norm(q.to(dtype)).to(v.dtype), self.key_norm(k.to(dtype)).to(v.dtype)
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        return q, k, v

    def project(
        self, x: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Queries, keys and values of the heads, as the projections give them."""
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
    C = config.d_model
    return 4 * C**2 + 4 * C * config.bias + qk_norm_parameters(config)


def qk_norm_parameters(config: GPTConfig) -> int:
    return 2 * head_width(config) if config.qk_norm else 0


def causal_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    width = config.d_model // config.num_heads
    return 8 * tokens * config.d_model**2 + score_flops(tokens, width, width, config.num_heads)


def causal_cache(config: GPTConfig, layer: int, tokens: int) -> int:
    return 2 * config.d_model * tokens


RECORDS = (
    AttentionRecord(
        name="sdpa",
        summary="multi-head attention on torch's fused kernel",
        equation="y_i = sum_j p_ij v_j, p_i = softmax over j <= i of S_ij = q_i . k_j / sqrt(D)",
        source="Vaswani et al. 2017, arXiv:1706.03762",
        make=lambda config, layer: CausalSelfAttention(config),
        naive=naive_causal,
        parameters=causal_parameters,
        flops=causal_flops,
        cache=causal_cache,
        qk_width=head_width,
    ),
)
