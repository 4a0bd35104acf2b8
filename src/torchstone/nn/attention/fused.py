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
    D, E = q.shape[3], v.shape[3]
    scale = D**-0.5 if scale is None else scale
    if D != E and q.device.type == "cpu":
        # Its kernel wants one width; without it, the weights would be written out.
        q, k, v = (F.pad(each, (0, max(D, E) - each.shape[3])) for each in (q, k, v))
    mixed = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=context.mask,
        dropout_p=dropout,
        is_causal=context.is_causal and context.mask is None,
        scale=scale,
    )
    return mixed[..., :E]


def visible(
    num_queries: int, num_keys: int, context: AttentionContext, device: torch.device
) -> Bool[Tensor, "B 1 T S"]:
    """The mask that the context stands for, written out."""
    if context.mask is not None:
        return context.mask
    return causal_mask(num_queries, num_keys, None, device)
