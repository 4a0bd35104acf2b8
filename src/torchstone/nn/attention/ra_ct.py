"""RA-CT on ordinary heads: `sdpa` moderated by a statistic of each row of its weights (`cross_token.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchstone.nn.attention.causal import (
    CausalSelfAttention,
    causal_cache,
    causal_flops,
    causal_parameters,
)
from torchstone.nn.attention.context import AttentionContext
from torchstone.nn.attention.cross_token import CrossTokenGate, cross_token_flops
from torchstone.nn.attention.naive import naive_heads_attention
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class CrossTokenAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.cross_token = CrossTokenGate(config.attention, config.num_heads)

    def mix(
        self, scores: Scores, v: Float[Tensor, "B H S D"], context: AttentionContext
    ) -> tuple[Float[Tensor, "B H T D"], Scores]:
        return self.cross_token(scores, v, context, self.dropout if self.training else 0.0)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    width = config.d_model // config.num_heads
    return causal_flops(config, layer, tokens) + cross_token_flops(config, tokens, width)


RECORDS = (
    AttentionRecord(
        name="ra-ct",
        summary="sdpa moderated by a statistic of each row of its weights",
        equation="y_i scaled by m_i = 1 - a + a sigmoid(scale_h s(p_i) + bias_h), or S_i by m_i; s: topk, "
        "max, entropy or rms",
        source="mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025), as it was meant",
        make=lambda config, layer: CrossTokenAttention(config),
        naive=naive_heads_attention,
        parameters=lambda config, layer: causal_parameters(config, layer) + 2 * config.num_heads,
        flops=_flops,
        cache=causal_cache,
        qk_width=head_width,
    ),
)
