"""A small room for value vectors, found after training: a monotone spline per channel, then main directions.

    geometry = fit_geometry(values, rank=16)       # values (N, D)
    z = geometry.encode(v)                         # (..., D) -> (..., rank), what a cache holds
    v = geometry.decode(z)                         # back, with the error that `rank` leaves

g bends each channel by a piecewise linear function with knots at quantiles, which has an exact inverse;
z = (g(v) - mean) W with the main directions W of the bent values. The fit alternates between W (by a singular
value decomposition, once per epoch) and the slopes of g (AdamW on the error of the way there and back).
mcgrof/AdamWPrune, "KVSplice" (2025-11-11), whose own figures show almost no gain of the splines over the main
directions alone; `splines=False` gives those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

KNOTS = 7
EPOCHS = 8
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4


class Geometry(nn.Module):
    """Fixed once fitted: buffers only. Made bare, it keeps the first `rank` channels as they are."""

    knots: Float[Tensor, "D 7"]
    slopes: Float[Tensor, "D 8"]
    shift: Float[Tensor, " D"]
    mean: Float[Tensor, " D"]
    directions: Float[Tensor, "D rank"]

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-1, 1, KNOTS).repeat(width, 1))
        self.register_buffer("slopes", torch.ones(width, KNOTS + 1))
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("directions", torch.eye(width)[:, :rank].contiguous())

    def encode(self, v: Float[Tensor, "... D"]) -> Float[Tensor, "... rank"]:
        return (bend(v, self.knots, self.slopes, self.shift) - self.mean) @ self.directions

    def decode(self, z: Float[Tensor, "... rank"]) -> Float[Tensor, "... D"]:
        return unbend(z @ self.directions.T + self.mean, self.knots, self.slopes, self.shift)


def bend(v: Tensor, knots: Tensor, slopes: Tensor, shift: Tensor) -> Tensor:
    """Each channel by its own function: `slopes` before, between and behind its knots; the first stays."""
    first = knots[:, 0]
    out = first + shift + slopes[:, 0] * (torch.minimum(v, first) - first)
    for i in range(KNOTS - 1):
        width = knots[:, i + 1] - knots[:, i]
        out = out + slopes[:, i + 1] * torch.minimum((v - knots[:, i]).clamp(min=0), width)
    return out + slopes[:, KNOTS] * (v - knots[:, -1]).clamp(min=0)


def unbend(y: Tensor, knots: Tensor, slopes: Tensor, shift: Tensor) -> Tensor:
    """The exact inverse of `bend`: the same function with knots at their images and slopes upside down."""
    widths = (knots[:, 1:] - knots[:, :-1]) * slopes[:, 1:-1]
    first = knots[:, 0]
    images = torch.cat([first[:, None], first[:, None] + widths.cumsum(dim=1)], dim=1)
    return bend(y - shift, images, 1 / slopes, torch.zeros_like(shift))


def fit_geometry(
    values: Float[Tensor, "N D"], rank: int, *, splines: bool = True, epochs: int = EPOCHS, seed: int = 0
) -> Geometry:
    """The geometry of `rank` dimensions that gives these values back best."""
    geometry = Geometry(values.shape[1], rank).to(values.device)
    quantiles = torch.linspace(0.02, 0.98, KNOTS, device=values.device)
    knots = torch.quantile(values[: 1 << 14].float(), quantiles, dim=0).T
    # A channel that hardly moves still needs knots in order.
    geometry.knots.copy_(knots + 1e-4 * torch.arange(KNOTS, device=values.device))
    delta = nn.Parameter(torch.full_like(geometry.slopes, 0.5413))
    size, shift = nn.Parameter(torch.full_like(geometry.mean, 0.5413)), nn.Parameter(geometry.shift.clone())
    optimizer = torch.optim.AdamW([delta, size, shift], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    batch = min(4096, max(256, len(values) // 8))
    _settle(geometry, values, delta, size, shift)
    for _ in range(epochs if splines else 0):
        for rows in torch.randperm(len(values), generator=generator).split(batch):  # type: ignore[no-untyped-call]
            v = values[rows.to(values.device)]
            slopes = _slopes(delta, size)
            z = (bend(v, geometry.knots, slopes, shift) - geometry.mean) @ geometry.directions
            back = unbend(z @ geometry.directions.T + geometry.mean, geometry.knots, slopes, shift)
            loss = F.mse_loss(back, v)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        _settle(geometry, values, delta, size, shift)
    return geometry


def _slopes(delta: Tensor, size: Tensor) -> Tensor:
    """Positive, of mean 1 per channel, times the channel's size."""
    slopes = F.softplus(delta) + 1e-4
    return slopes / slopes.mean(dim=1, keepdim=True) * F.softplus(size)[:, None]


@torch.no_grad()
def _settle(geometry: Geometry, values: Tensor, delta: Tensor, size: Tensor, shift: Tensor) -> None:
    """Take over the bends, and find the main directions of what they make of the values."""
    geometry.slopes.copy_(_slopes(delta, size))
    geometry.shift.copy_(shift)
    bent = bend(values, geometry.knots, geometry.slopes, geometry.shift)
    geometry.mean.copy_(bent.mean(dim=0))
    _, _, right = torch.linalg.svd(bent - geometry.mean, full_matrices=False)
    geometry.directions.copy_(right[: geometry.directions.shape[1]].T)
