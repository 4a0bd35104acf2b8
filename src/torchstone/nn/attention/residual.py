"""RA as a learned residual: the middle blocks add attention whose queries and keys have changed places.

    y = SDPA attention + tanh(b) LayerNorm(W concat_h SDPA(k_h, q_h, v_h)),   b = 0 at first

over the first `swapped_heads` heads of the `swapped_layers` blocks in the middle; other blocks are `sdpa`.
Row i of the swapped attention is the softmax of k_i . q_j over the places up to i; decoding keeps those
queries too. mcgrof/knlp at 041ec5f2 (2026): RALEARN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.causal import (
    CausalSelfAttention,
    causal_cache,
    causal_flops,
    causal_parameters,
)
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.heads import join_heads
from torchstone.nn.attention.naive_heads import naive_residual
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.gates import Gates

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class SwappedResidualAttention(Gates, CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.num_swapped = config.attention.swapped_heads
        if self.num_swapped > config.num_heads:
            raise ConfigError(
                f"model.attention.swapped_heads={self.num_swapped} is more than num_heads={config.num_heads}"
            )
        self.swapped = nn.Linear(self.num_swapped * self.head_width, config.d_model, bias=False)
        self.swapped_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.prepare(x, context)
        own_keys, queries = k[:, : self.num_swapped], q[:, : self.num_swapped]
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
            queries = torch.cat([past[2], queries], dim=2)
        scale, dropout = self.head_width**-0.5, self.dropout if self.training else 0.0
        scores = Scores(q, k, scale)
        base = self.out(join_heads(scores.attend(v, context, dropout=dropout), sent))
        swapped = Scores(own_keys, queries, scale).attend(v[:, : self.num_swapped], context, dropout=dropout)
        gate = None if sent.gate is None else sent.gate[:, : self.num_swapped]
        extra = self.swapped_norm(self.swapped(join_heads(swapped, Handoff(gate=gate))))
        return Attended(
            out=self.residual_dropout(base + self.gates()["strength"] * extra),
            # A view would keep the queries of all heads.
            cache=(k, v, queries.contiguous()) if context.keep_cache else (),
            weights=scores.mean_weights(context) if context.keep_weights else None,
            looked=Looked(scores, context) if context.keep_scores else None,
        )

    def gates(self) -> dict[str, Tensor]:
        return {"strength": torch.tanh(self.strength)}


def is_swapped(config: GPTConfig, layer: int) -> bool:
    """Whether the block is one of the middle ones."""
    count = min(config.attention.swapped_layers, config.num_layers)
    first = (config.num_layers - count) // 2
    return first <= layer < first + count


def _make(config: GPTConfig, layer: int) -> CausalSelfAttention:
    if is_swapped(config, layer):
        return SwappedResidualAttention(config)
    return CausalSelfAttention(config)


def _width(config: GPTConfig, layer: int) -> int:
    """Channels of the swapped heads."""
    heads = config.attention.swapped_heads if is_swapped(config, layer) else 0
    return heads * config.d_model // config.num_heads


def _parameters(config: GPTConfig, layer: int) -> int:
    extra = _width(config, layer) * config.d_model + (1 + config.bias) * config.d_model + 1
    return causal_parameters(config, layer) + (extra if is_swapped(config, layer) else 0)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    D, width = config.d_model // config.num_heads, _width(config, layer)
    extra = 2 * tokens * width * config.d_model + score_flops(tokens, D, D, width // D)
    return causal_flops(config, layer, tokens) + extra


RECORDS = (
    AttentionRecord(
        name="ra-residual",
        summary="sdpa; the middle blocks add attention with queries and keys swapped",
        equation="y = sdpa + tanh(b) LayerNorm(W concat_h sdpa(k_h, q_h, v_h))",
        source="mcgrof/knlp at 041ec5f2 (2026)",
        make=_make,
        naive=naive_residual,
        parameters=_parameters,
        flops=_flops,
        cache=lambda config, layer, tokens: (
            causal_cache(config, layer, tokens) + _width(config, layer) * tokens
        ),
        qk_width=head_width,
    ),
)
