"""Attention over the own place and some places before it, whose cache holds no others.

n counts the places that are here: those of the cache, then the queries' own; they are the last n of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def context_here(context: AttentionContext, num_queries: int, num_here: int) -> AttentionContext:
    """What the context says of the places that are here."""
    mask = None if context.mask is None else context.mask[..., context.mask.shape[3] - num_here :]
    return AttentionContext(mask=mask, is_causal=num_here == num_queries)


def near_mask(
    here: AttentionContext, num_queries: int, num_here: int, window: int, device: torch.device
) -> Bool[Tensor, "B 1 T n"]:
    """Which of the places here a query may look at: its own and `window` before it."""
    query = torch.arange(num_here - num_queries, num_here, device=device)[:, None]
    back = query - torch.arange(num_here, device=device)
    return fused.visible(num_queries, num_here, here, device) & (back <= window)


def last(x: Float[Tensor, "B H n D"], count: int) -> Float[Tensor, "B H m D"]:
    """The last `count` places, in memory of their own."""
    return x[:, :, x.shape[2] - count :].clone() if x.shape[2] > count else x.contiguous()
