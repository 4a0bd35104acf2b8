"""Attention that shares its projections, in three ways (`model.attention.tie`).

    keys-values             k = v: one projection less, and the cache holds one tensor instead of two
    keys-values-transposed  W_k = W_v^T: as many projections, one matrix less
    queries-keys            q = k: one projection less; scores are symmetric

mcgrof/AdamWPrune: gpt2/trainers/vanilla.py (2025) for the first two; what it called the transpose computed
k = v a second time. Shared queries and keys: Kitaev et al. 2020 (arXiv:2001.04451).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.attention.causal import CausalSelfAttention, causal_flops, qk_norm_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
from torchstone.nn.attention.heads import split_heads
from torchstone.nn.attention.naive_heads import naive_tied
from torchstone.nn.attention.record import AttentionRecord, head_width

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class TiedAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        C, self.tie = config.d_model, config.attention.tie
        del self.qkv
        self.parts = nn.Linear(C, 2 * C, bias=config.bias)
        """queries-keys: the shared one, then the values; else: the queries, then the values."""
        has_bias = self.tie == "keys-values-transposed" and config.bias
        self.key_bias = nn.Parameter(torch.zeros(C)) if has_bias else None

    def project(
        self, x: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        first, last = (split_heads(part, self.num_heads) for part in self.parts(x).chunk(2, dim=-1))
        if self.tie == "queries-keys":
            return first, first, last
        if self.tie == "keys-values":
            return first, last, last
        C = x.shape[-1]
        keys = F.linear(x, self.parts.weight[C:].T, self.key_bias)
        return first, split_heads(keys, self.num_heads), last

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        if self.tie != "keys-values":
            return super().forward(x, context, sent, past)
        found = super().forward(x, context, sent, None if past is None else (past[0], past[0]))
        return found._replace(cache=found.cache[:1])


def _parameters(config: GPTConfig, layer: int) -> int:
    C = config.d_model
    biases = 4 if config.attention.tie == "keys-values-transposed" else 3
    return 3 * C**2 + biases * C * config.bias + qk_norm_parameters(config)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    saved = 0 if config.attention.tie == "keys-values-transposed" else 2 * tokens * config.d_model**2
    return causal_flops(config, layer, tokens) - saved


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    return (1 if config.attention.tie == "keys-values" else 2) * config.d_model * tokens


def _turned_width(config: GPTConfig) -> int | None:
    # Keys that are turned or normed are no longer the values.
    return None if config.attention.tie == "keys-values" else head_width(config)


RECORDS = (
    AttentionRecord(
        name="tied",
        summary="keys and values, or queries and keys, from one projection",
        equation="sdpa with k = v, W_k = W_v^T, or q = k",
        source="mcgrof/AdamWPrune: gpt2/trainers/vanilla.py (2025), as it was meant; arXiv:2001.04451",
        make=lambda config, layer: TiedAttention(config),
        naive=naive_tied,
        parameters=_parameters,
        flops=_flops,
        cache=_cache,
        rotary_width=_turned_width,
        qk_width=_turned_width,
    ),
)
