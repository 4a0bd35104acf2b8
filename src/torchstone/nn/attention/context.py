"""What every block of one forward pass shares: the mask and the rotation of positions.

It is computed once per forward and handed from block to block as an argument. Nothing is left on
the modules, so one call can never change the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Cache = tuple[Float[Tensor, "B H S D"], Float[Tensor, "B H S D"]]
else:
    Cache = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AttentionContext:
    """`mask` is True where a query may look; None means: plain causal over equal lengths, or no limit."""

    mask: Bool[Tensor, "B 1 T S"] | None = None
    is_causal: bool = True
    rotary: tuple[Float[Tensor, "B 1 T D"], Float[Tensor, "B 1 T D"]] | None = None
    keep_cache: bool = False


def causal_mask(
    num_queries: int,
    num_keys: int,
    padding: Int[Tensor, "B S"] | Bool[Tensor, "B 1 T S"] | None,
    device: torch.device,
) -> Bool[Tensor, "B 1 T S"]:
    """Each query sees the keys up to its own place, without padded ones or those that its row leaves out.

    A query always sees itself: a padded row would otherwise see nothing, and the softmax of nothing is NaN.
    """
    past = num_keys - num_queries
    query = torch.arange(past, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)[None, :]
    allowed = (key <= query)[None, None]
    if padding is None:
        return allowed
    shown = padding.bool() if padding.dim() == 4 else padding.bool()[:, None, None, :]
    return allowed & (shown | (key == query)[None, None])
