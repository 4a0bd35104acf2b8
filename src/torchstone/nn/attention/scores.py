"""Scores of queries with keys, kept as what they are products of, and the attention that follows from them.

    score(i, j) = scale * (q_i . k_j + [i - j <= window] * x_i . y_j)

The extra channels x and y make mechanisms whose scores are sums of products one call of torch's fused kernel,
at the width of both together. Where they count in a band only, queries go in a few pieces, and each piece
sees its near keys with their extra channels and its far keys with zeros there; on a GPU `flex.py` takes near
and far keys apart instead. No T x T tensor of scores or weights is made in any of these ways.

S counts the keys, T the queries (they are the last T places of S), D the width of both, X that of the extra
channels, E that of the values, R the last places for which y is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.nn.attention import flex, fused
from torchstone.nn.attention.context import AttentionContext

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

PIECES = 8
"""Of the queries, where there is a band: keys are copied once for each."""


@dataclass(frozen=True)
class Piece:
    """Queries `start` to `stop`, whose keys are the places before `far` and those from `near` to `end`."""

    start: int
    stop: int
    far: int
    near: int
    end: int

    @property
    def num_keys(self) -> int:
        return self.far + self.end - self.near


def pieces(num_queries: int, num_keys: int, window: int | None) -> list[Piece]:
    """How the queries are cut; one piece where every key is near."""
    past = num_keys - num_queries
    if window is None or _all_near(window, num_keys):
        return [Piece(0, num_queries, 0, 0, num_keys)]
    size = max(math.ceil(num_queries / PIECES), window)
    return [
        Piece(
            start,
            min(start + size, num_queries),
            far=max(0, past + min(start + size, num_queries) - 1 - window),
            near=max(0, past + start - window),
            end=past + min(start + size, num_queries),
        )
        for start in range(0, num_queries, size)
    ]


def score_flops(tokens: int, width: int, value_width: int, heads: int, window: int | None = None) -> int:
    """Of `Scores.attend` over one sequence; `width` counts the extra channels, values are padded to it."""
    padded = 2 * max(width, value_width)
    return 2 * padded * heads * sum((p.stop - p.start) * p.num_keys for p in pieces(tokens, tokens, window))


def near_flops(tokens: int, channels: int, window: int) -> int:
    """Of `Scores.attend_near` over one sequence, without extra channels; `channels` counts all heads."""
    return 4 * channels * sum((p.stop - p.start) * (p.end - p.near) for p in pieces(tokens, tokens, window))


@dataclass(frozen=True)
class Scores:
    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B H S D"]
    scale: float
    q_extra: Float[Tensor, "B H T X"] | None = None
    k_extra: Float[Tensor, "B H R X"] | None = None
    window: int | None = None
    """Places back, the own one not counted, over which the extra channels count; None: all."""

    def attend(
        self, v: Float[Tensor, "B H S E"], context: AttentionContext, *, dropout: float = 0.0
    ) -> Float[Tensor, "B H T E"]:
        """The values, weighted by the softmax of the scores."""
        assert v.shape[2] == self.k.shape[2], (v.shape, self.k.shape)
        if self.q_extra is None or self.k_extra is None:
            return fused.attend(self.q, self.k, v, context, scale=self.scale, dropout=dropout)
        if not _all_near(self.window, self.k.shape[2]) and flex.fits(self.q.device, context, dropout):
            assert self.window is not None
            parts = (self.q, self.k, self.q_extra, self.k_extra, v)
            return flex.attend_in_band(*parts, scale=self.scale, window=self.window)
        mixed = [
            fused.attend(q, k, values, part, scale=self.scale, dropout=dropout)
            for q, k, values, part in self.parts(context, v)
        ]
        return torch.cat(mixed, dim=2) if len(mixed) > 1 else mixed[0]

    def attend_near(
        self, v: Float[Tensor, "B H S E"], context: AttentionContext, window: int, *, dropout: float = 0.0
    ) -> Float[Tensor, "B H T E"]:
        """The same over the own place and `window` before it alone; without extra channels."""
        T, S = self.q.shape[2], self.k.shape[2]
        assert v.shape[2] == S and self.q_extra is None, (v.shape, self.k.shape)
        if _all_near(window, S):
            return fused.attend(self.q, self.k, v, context, scale=self.scale, dropout=dropout)
        found = []
        for piece in pieces(T, S, window):
            back = _distance(self, piece.start, piece.stop, piece.near, piece.end)
            mask = ((back >= 0) & (back <= window))[None, None]
            if context.mask is not None:
                mask = mask & context.mask[:, :, piece.start : piece.stop, piece.near : piece.end]
            q, k, values = (
                self.q[:, :, piece.start : piece.stop],
                self.k[:, :, piece.near : piece.end],
                v[:, :, piece.near : piece.end],
            )
            part = AttentionContext(mask=mask, is_causal=False)
            found.append(fused.attend(q, k, values, part, scale=self.scale, dropout=dropout))
        return torch.cat(found, dim=2)

    def parts(
        self, context: AttentionContext, v: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, AttentionContext]]:
        """(q, k, v, context) of each piece, extra channels joined; without `v` the keys are the values."""
        T, S = self.q.shape[2], self.k.shape[2]
        if self.q_extra is None or self.k_extra is None:
            yield self.q, self.k, self.k if v is None else v, context
            return
        q = torch.cat([self.q, self.q_extra], dim=-1)
        if _all_near(self.window, S):
            keys = torch.cat([self.k, self.k_extra], dim=-1)
            yield q, keys, keys if v is None else v, context
            return
        for piece in pieces(T, S, self.window):
            keys = torch.cat([self.k[:, :, piece.near : piece.end], self._near(piece)], dim=-1)
            far = F.pad(self.k[:, :, : piece.far], (0, self.q_extra.shape[-1]))
            keys = torch.cat([far, keys], dim=2)
            values = (
                keys
                if v is None
                else torch.cat([v[:, :, : piece.far], v[:, :, piece.near : piece.end]], dim=2)
            )
            narrowed = AttentionContext(mask=self._mask(piece, context), is_causal=False)
            yield q[:, :, piece.start : piece.stop], keys, values, narrowed

    def rows(self, context: AttentionContext, start: int, stop: int) -> Float[Tensor, "B H t S"]:
        """The scores of some queries, minus infinity where they may not look."""
        S = self.k.shape[2]
        found = self.q[:, :, start:stop] @ self.k.transpose(-1, -2)
        if self.q_extra is not None and self.k_extra is not None:
            extra = self.q_extra[:, :, start:stop] @ self.k_extra.transpose(-1, -2)
            extra = F.pad(extra, (S - self.k_extra.shape[2], 0))
            if self.window is not None:
                extra = extra.masked_fill(_distance(self, start, stop, 0, S) > self.window, 0.0)
            found = found + extra
        mask = fused.visible(self.q.shape[2], S, context, self.q.device)[:, :, start:stop]
        return (self.scale * found).masked_fill(~mask, float("-inf"))

    def mean_weights(self, context: AttentionContext) -> Float[Tensor, "B T S"]:
        """Mean over the heads of the attention weights, without gradient, some rows at a time."""
        T = self.q.shape[2]
        with torch.no_grad():  # as a decorator it would stop torch.compile
            parts = [
                self.rows(context, start, min(start + fused.ROWS, T)).softmax(dim=-1).mean(dim=1)
                for start in range(0, T, fused.ROWS)
            ]
        return torch.cat(parts, dim=1)

    def _near(self, piece: Piece) -> Float[Tensor, "B H n X"]:
        assert self.k_extra is not None
        first = self.k.shape[2] - self.k_extra.shape[2]
        assert piece.near >= first, f"extra channels are known from place {first} on, not from {piece.near}"
        return self.k_extra[:, :, piece.near - first : piece.end - first]

    def _mask(self, piece: Piece, context: AttentionContext) -> Bool[Tensor, "B 1 t n"]:
        assert self.window is not None
        far = _distance(self, piece.start, piece.stop, 0, piece.far) > self.window
        back = _distance(self, piece.start, piece.stop, piece.near, piece.end)
        mask = torch.cat([far, (back >= 0) & (back <= self.window)], dim=1)[None, None]
        if context.mask is None:
            return mask
        allowed = context.mask[:, :, piece.start : piece.stop]
        return mask & torch.cat([allowed[..., : piece.far], allowed[..., piece.near : piece.end]], dim=-1)


def _all_near(window: int | None, num_keys: int) -> bool:
    return window is None or num_keys <= window + 1


def _distance(scores: Scores, start: int, stop: int, first: int, last: int) -> Tensor:
    """Places from the keys `first` to `last` up to the queries `start` to `stop`."""
    past = scores.k.shape[2] - scores.q.shape[2]
    query = torch.arange(past + start, past + stop, device=scores.q.device)
    return query[:, None] - torch.arange(first, last, device=scores.q.device)
