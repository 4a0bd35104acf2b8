"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout.

Channel i of a head is paired with channel i + D/2 and the pair is turned by `position * base^(-2i/D)`, so
that the product of a query and a key depends on their distance alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BASE = 10_000.0


def rotation(
    positions: Int[Tensor, "B T"], head_width: int
) -> tuple[Float[Tensor, "B 1 T D"], Float[Tensor, "B 1 T D"]]:
    """Cosine and sine for each position, ready to broadcast over the heads; always fp32."""
    steps = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)
    angle = positions.float()[..., None] * BASE ** (-steps / head_width)
    angle = torch.cat([angle, angle], dim=-1)[:, None]
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "B H T D"], turn: tuple[Float[Tensor, "B 1 T D"], Float[Tensor, "B 1 T D"]]
) -> Float[Tensor, "B H T D"]:
    """Turn every pair of channels of `x` by its position's angle."""
    cosine, sine = turn
    left, right = x.float().chunk(2, dim=-1)
    swapped = torch.cat([-right, left], dim=-1)
    return (x.float() * cosine + swapped * sine).to(x.dtype)
