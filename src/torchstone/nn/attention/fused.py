"""Softmax attention on torch's fused kernel, with what it does not check by itself.

S counts the keys, T the queries, D the width of both, E that of the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.nn.attention.context import AttentionContext, causal_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ROWS = 128
"""Queries whose weights are in memory at once where weights have to be looked at."""


def attend(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S E"],
    context: AttentionContext,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T E"]:
    """softmax(scale q k^T) v under the context's mask; `scale` is 1/sqrt(D) unless given."""
    # The CPU kernel accepts unequal lengths and returns garbage.
    assert k.shape[2] == v.shape[2], (k.shape, v.shape)
    assert q.shape[3] == k.shape[3], (q.shape, k.shape)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=context.mask,
        dropout_p=dropout,
        is_causal=context.is_causal and context.mask is None,
        scale=scale,
    )


@torch.no_grad()
def mean_weights(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    context: AttentionContext,
    *,
    scale: float | None = None,
) -> Float[Tensor, "B T S"]:
    """Mean over the heads of the attention weights, without gradient, some rows at a time."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = visible(q.shape[2], k.shape[2], context, q.device)
    parts = []
    for start in range(0, q.shape[2], ROWS):
        rows = slice(start, start + ROWS)
        scores = scale * q[:, :, rows] @ k.transpose(-1, -2)
        scores = scores.masked_fill(~mask[:, :, rows], float("-inf"))
        parts.append(scores.softmax(dim=-1).mean(dim=1))
    return torch.cat(parts, dim=1)


def visible(
    num_queries: int, num_keys: int, context: AttentionContext, device: torch.device
) -> Bool[Tensor, "B 1 T S"]:
    """The mask that the context stands for, written out."""
    if context.mask is not None:
        return context.mask
    return causal_mask(num_queries, num_keys, None, device)
