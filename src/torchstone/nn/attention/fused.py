"""Softmax attention on torch's fused kernel, with what it does not check by itself.

S counts the keys, T the queries, D the width of both, E that of the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.nn.attention import flex
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
    return mixed if mixed.shape[3] == E else mixed[..., :E]


def attend_with_log_sum(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    context: AttentionContext,
    *,
    scale: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """Also the log of the sum of the exponentials of each row of scores, without gradient and in fp32.

    The kernel of the CPU gives it for nothing, and so does FlexAttention on a GPU where it fits (`flex.py`);
    elsewhere the rows are looked at once more.
    """
    assert k.shape[2:] == v.shape[2:] and q.shape[3] == k.shape[3], (q.shape, k.shape, v.shape)
    if flex.fits(q.device, context, 0.0):
        return flex.attend_with_log_sum(q, k, v, scale)
    if q.device.type != "cpu":
        return attend(q, k, v, context, scale=scale), log_sums(q, k, context, scale)
    bias = None
    if context.mask is not None:
        bias = torch.zeros_like(context.mask, dtype=q.dtype).masked_fill_(~context.mask, float("-inf"))
    mixed, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, context.is_causal and bias is None, attn_mask=bias, scale=scale
    )
    return mixed, log_sum


@torch.no_grad()
def log_sums(q: Tensor, k: Tensor, context: AttentionContext, scale: float) -> Float[Tensor, "B H T"]:
    """The same from the scores themselves, some rows at a time."""
    mask = visible(q.shape[2], k.shape[2], context, q.device)
    found = []
    for start in range(0, q.shape[2], ROWS):
        scores = (scale * q[:, :, start : start + ROWS] @ k.transpose(-1, -2)).float()
        scores = scores.masked_fill(~mask[:, :, start : start + ROWS], float("-inf"))
        found.append(scores.logsumexp(dim=-1))
    return torch.cat(found, dim=2)


def visible(
    num_queries: int, num_keys: int, context: AttentionContext, device: torch.device
) -> Bool[Tensor, "B 1 T S"]:
    """The mask that the context stands for, written out."""
    if context.mask is not None:
        return context.mask
    return causal_mask(num_queries, num_keys, None, device)
