"""How each head looks at its tokens: entropy of its weights, reciprocity of its scores.

    seen = HeadLook()
    for attended in model.attended(input_ids):
        seen.add(attended.looked)            # of one block, over as many batches as there are
    seen.entropy, seen.reciprocity           # (H,) each

    entropy      mean over the queries of - sum_j p_ij log p_ij, in nats; those with one key have no choice
    reciprocity  correlation of q_i . k_j with q_j . k_i over the pairs j < i that i may see: 1 where the pair
                 thinks alike of each other, 0 where the one says nothing about the other

Weights are those by which the values were mixed, whatever the mechanism adds to its scores. Reciprocity is of
the plain products, so that mechanisms with a reciprocal term can be compared with those without. Some rows
of numbers are made at a time, never T x T of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention import fused
from torchstone.nn.attention.context import Looked

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class HeadLook:
    """Sums over queries and over pairs, per head; NaN where a head has nothing to sum or all is the same."""

    def __init__(self) -> None:
        self._entropy = self._queries = torch.zeros(())
        self._pairs: list[Tensor] = [torch.zeros(())] * 6
        """Number, x, y, x x, y y, x y over the pairs; x the score, y that of the pair the other way round."""

    @torch.no_grad()
    def add(self, looked: Looked, real: Bool[Tensor, "B T"] | None = None) -> None:
        """A batch without a cache; `real` is False for padding, which counts nowhere."""
        scores, context, shares = looked
        T, device = scores.q.shape[2], scores.q.device
        assert scores.k.shape[2] == T, (scores.q.shape, scores.k.shape)
        seen = fused.visible(T, T, context, device)
        if real is not None:
            seen = seen & real[:, None, :, None] & real[:, None, None, :]
        seen = seen.expand(*scores.q.shape[:2], -1, -1)
        earlier = torch.arange(T, device=device)[:, None] > torch.arange(T, device=device)
        exact = torch.float32 if device.type == "mps" else torch.float64
        for start in range(0, T, fused.ROWS):
            rows = slice(start, min(start + fused.ROWS, T))
            weights = scores.rows(context, rows.start, rows.stop).to(exact).softmax(dim=-1)
            if shares is not None:
                weights = shares[:, :, rows] * weights
                weights = weights / weights.sum(dim=-1, keepdim=True)
            counted = seen[:, :, rows].sum(dim=-1) > 1
            self._entropy = self._entropy + _over_heads(torch.special.entr(weights).sum(dim=-1) * counted)
            self._queries = self._queries + _over_heads(counted)
            x = (scores.q[:, :, rows] @ scores.k.transpose(-1, -2)).to(exact)
            y = (scores.k[:, :, rows] @ scores.q.transpose(-1, -2)).to(exact)
            pairs = seen[:, :, rows] & earlier[rows]
            terms = (pairs, x, y, x * x, y * y, x * y)
            self._pairs = [
                old + _over_heads(new * pairs) for old, new in zip(self._pairs, terms, strict=True)
            ]

    @property
    def entropy(self) -> Float[Tensor, " H"]:
        return self._entropy / self._queries

    @property
    def reciprocity(self) -> Float[Tensor, " H"]:
        """Pearson's correlation."""
        n, x, y, xx, yy, xy = self._pairs
        return (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).clamp(min=0).sqrt()


def _over_heads(x: Tensor) -> Float[Tensor, " H"]:
    """Sum over all but the heads."""
    return x.sum(dim=[place for place in range(x.dim()) if place != 1]).cpu().double()
