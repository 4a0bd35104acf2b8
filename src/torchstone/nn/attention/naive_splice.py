"""The slow twins of attention whose values, or whose latent, go through something narrower.

As in `naive.py`: the module, one sequence x (T, C), the configuration, what was sent -> what it must give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.naive import naive_heads, naive_join, naive_linear, naive_qkv, naive_scores, naive_softmax

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.attention.geometry import Geometry
    from torchstone.nn.attention.kvsplice import SplicedAttention
    from torchstone.nn.attention.splice import SplicedLatentAttention
    from torchstone.nn.gpt import GPTConfig


def naive_learned_splice(
    layer: SplicedLatentAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    C = x.shape[1]
    latent = naive_linear(layer.down, x)
    if sent.latent is not None:
        latent = latent + sent.latent
    size = torch.log(1 + torch.exp(layer.scale))
    kept = (latent * size + layer.shift) @ layer.compress
    again = (kept @ layer.expand - layer.shift) / (size + 1e-6)
    q = naive_heads(naive_linear(layer.query, latent), layer.num_heads)
    both = naive_linear(layer.keys_values, again)
    k, v = naive_heads(both[:, :C], layer.num_heads), naive_heads(both[:, C:], layer.num_heads)
    weights = [naive_softmax(naive_scores(q[h], k[h])) for h in range(layer.num_heads)]
    mixed = [weights[h] @ v[h] for h in range(layer.num_heads)]
    return Attended(
        out=naive_linear(layer.out, naive_join(mixed, sent)),
        latent=latent,
        weights=torch.stack(weights).mean(0),
    )


def naive_kvsplice(
    layer: SplicedAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    q, k, v = naive_qkv(layer, x, config)
    weights = [naive_softmax(naive_scores(q[h], k[h])) for h in range(layer.num_heads)]
    mixed = [weights[h] @ naive_round_trip(layer.geometry, v[h]) for h in range(layer.num_heads)]
    return Attended(
        out=naive_linear(layer.out, naive_join(mixed, sent)),
        weights=torch.stack(weights).mean(0),
    )


def naive_round_trip(geometry: Geometry, v: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
    bent = torch.stack([naive_bend(geometry, v[:, d], d) for d in range(v.shape[1])], dim=1)
    low = (bent - geometry.mean) @ geometry.directions
    wide = low @ geometry.directions.T + geometry.mean
    return torch.stack([_naive_unbend(geometry, wide[:, d], d) for d in range(v.shape[1])], dim=1)


def naive_bend(geometry: Geometry, values: Float[Tensor, " T"], channel: int) -> Float[Tensor, " T"]:
    """One channel, value by value: from the first knot along the segments to where the value lies."""
    knots, slopes = geometry.knots[channel], geometry.slopes[channel]
    found = []
    for value in values:
        y = knots[0] + geometry.shift[channel]
        if value < knots[0]:
            y = y + slopes[0] * (value - knots[0])
        for i in range(len(knots)):
            if value >= knots[i]:
                end = value if i == len(knots) - 1 or value < knots[i + 1] else knots[i + 1]
                y = y + slopes[i + 1] * (end - knots[i])
        found.append(y)
    return torch.stack(found)


def _naive_unbend(geometry: Geometry, values: Float[Tensor, " T"], channel: int) -> Float[Tensor, " T"]:
    """The value whose bent form it is: on the segment between the images of two knots."""
    knots, slopes = geometry.knots[channel], geometry.slopes[channel]
    images = naive_bend(geometry, knots, channel)
    found = []
    for y in values:
        segment = sum(bool(y >= image) for image in images)
        start = max(segment - 1, 0)
        found.append(knots[start] + (y - images[start]) / slopes[segment])
    return torch.stack(found)
