"""Causal multi-head self-attention on torch's fused kernel, with a key-value cache.

Vaswani et al. 2017 (arXiv:1706.03762), in the GPT-2 layout: one projection makes q, k and v, biases
everywhere. The readable slow twin is `torchstone.nn.naive`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import AttentionContext, Cache
from torchstone.nn.rotary import rotate

if TYPE_CHECKING:
    from jaxtyping import Float


class CausalSelfAttention(nn.Module):
    """`(B, T, C) -> (B, T, C)` and, where the context asks for it, the cache to go on with."""

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ConfigError(
                f"d_model={d_model} cannot be shared among num_heads={num_heads}",
                why="each head takes an equal slice of the width",
                next=f"choose a d_model that is a multiple of {num_heads}, or another num_heads",
            )
        self.num_heads = num_heads
        self.head_width = d_model // num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T C"], context: AttentionContext, past: Cache | None = None
    ) -> tuple[Float[Tensor, "B T C"], Cache | None]:
        q, k, v = (self._heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        if past is not None:
            k = torch.cat([past[0], k], dim=2)
            v = torch.cat([past[1], v], dim=2)
        # The CPU kernel accepts unequal lengths and returns garbage.
        assert k.shape[2] == v.shape[2], (k.shape, v.shape)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=context.mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=context.is_causal and context.mask is None,
        )
        joined = mixed.transpose(1, 2).flatten(2)
        return self.residual_dropout(self.out(joined)), (k, v) if context.keep_cache else None

    def _heads(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B H T D"]:
        return x.view(*x.shape[:2], self.num_heads, self.head_width).transpose(1, 2)
