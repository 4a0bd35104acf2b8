"""Attention with a gate on its output: each channel of each head is scaled by a sigmoid of the token itself.

    y = out(heads(SDPA(q, k, v)) * sigmoid(x W_g)),   W_g of C x C, no bias

Qiu et al. 2025 (arXiv:2505.06708), the elementwise form behind the attention.
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
from torchstone.nn.attention.context import Handoff
from torchstone.nn.attention.heads import join_heads
from torchstone.nn.attention.naive_heads import naive_gated
from torchstone.nn.attention.record import AttentionRecord, head_width

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class GatedAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.d_model, config.d_model, bias=False)

    def finish(
        self, mixed: Float[Tensor, "B H T D"], x: Float[Tensor, "B T C"], sent: Handoff
    ) -> Float[Tensor, "B T C"]:
        return self.out(join_heads(mixed, sent) * torch.sigmoid(self.gate(x)))


RECORDS = (
    AttentionRecord(
        name="gated",
        summary="sdpa with a sigmoid gate on each channel of its output",
        equation="sdpa, heads times sigmoid(x W_g) channel by channel",
        source="Qiu et al. 2025, arXiv:2505.06708",
        make=lambda config, layer: GatedAttention(config),
        naive=naive_gated,
        parameters=lambda config, layer: causal_parameters(config, layer) + config.d_model**2,
        flops=lambda config, layer, tokens: (
            causal_flops(config, layer, tokens) + 2 * tokens * config.d_model**2
        ),
        cache=causal_cache,
        qk_width=head_width,
    ),
)
