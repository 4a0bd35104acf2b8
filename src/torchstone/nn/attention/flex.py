"""The band by FlexAttention (Dong et al. 2024, arXiv:2412.05496), where a GPU is there to run it.

Extra channels that count in a band (`scores.py`) split the keys of a query in two: near ones, scored at the
width of both, and far ones. Each part is one call of a kernel that skips the blocks that its mask leaves out,
and gives the log-sum-exp l of each row; the whole is their mean, weighed by each part's exponentials:

    y = s y_near + (1 - s) y_far,   s = sigmoid(l_near - l_far)

So the band costs T (window + block) pairs of double width instead of all of them. On a CPU torch runs the
same functions uncompiled, writes the squares out and gives no gradient: enough for a test of equality.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone.nn.attention.context import AttentionContext

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.nn.attention.flex_attention import BlockMask


def fits(device: torch.device, context: AttentionContext, dropout: float) -> bool:
    """Whether the kernel is to be chosen: it knows causal masks, and neither padding, dropout nor a cache."""
    return device.type == "cuda" and context.mask is None and context.is_causal and not dropout


def attend_in_band(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    q_extra: Float[Tensor, "B H T X"],
    k_extra: Float[Tensor, "B H T X"],
    v: Float[Tensor, "B H T E"],
    *,
    scale: float,
    window: int,
) -> Float[Tensor, "B H T E"]:
    """`Scores.attend` of whole sequences; `window` places back, the own one not counted, are near."""
    assert q.shape[2] == k.shape[2] == k_extra.shape[2] == v.shape[2], (q.shape, k.shape, v.shape)
    near, of_near = _attend(
        torch.cat([q, q_extra], dim=-1), torch.cat([k, k_extra], dim=-1), v, scale, 0, window
    )
    far, of_far = _attend(q, k, v, scale, window + 1, q.shape[2])
    share = torch.sigmoid(of_near - of_far)[..., None].to(v.dtype)
    return share * near + (1 - share) * far


def attend_with_log_sum(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T E"], scale: float
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T"]]:
    """Causal attention, and the log of the sum of the exponentials of each row of scores."""
    return _attend(q, k, v, scale, 0, q.shape[2])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, first: int, last: int
) -> tuple[Tensor, Float[Tensor, "B H T"]]:
    """Over the keys that are `first` to `last` places back; a row without any gives 0, and minus infinity."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    mask = _block_mask(q.shape[2], first, last, q.device)
    kernel = flex_attention if torch.compiler.is_compiling() or q.device.type == "cpu" else _compiled()
    out, more = kernel(q, k, v, block_mask=mask, scale=scale, return_aux=AuxRequest(lse=True))
    return out, more.lse


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@functools.lru_cache(maxsize=64)
def _block_mask(tokens: int, first: int, last: int, device: torch.device) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key >= first) & (query - key <= last)

    return create_block_mask(seen, None, None, tokens, tokens, device=device)
