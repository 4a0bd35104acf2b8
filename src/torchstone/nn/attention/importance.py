"""Which places each query of `kv-pruned` sees: the recent ones, and the most important of those before.

n counts the places that are here: those of the cache that were not dropped, then the queries' own. Choices
pass no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext
from torchstone.nn.attention.scores import Scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

NOTHING = float("-inf")
"""Importance of what is not to be chosen."""


class Chosen(NamedTuple):
    recent: Bool[Tensor, "B H T n"]
    places: Int[Tensor, "B H T r"]
    """Of those that are not recent, from the most important on."""
    valid: Bool[Tensor, "B H T r"]
    """False where there were fewer."""

    def shares(self, of_ranks: Float[Tensor, "#H r"]) -> Float[Tensor, "B H T n"]:
        """By which part of its weight each place counts for each query."""
        part = of_ranks[:, None, : self.valid.shape[3]] * self.valid
        empty = torch.zeros(self.recent.shape, dtype=part.dtype, device=part.device)
        return torch.where(self.recent, 1.0, empty.scatter(3, self.places, part))


@torch.no_grad()
def by_worth(
    worth: Float[Tensor, "B H n"],
    seen: Bool[Tensor, "B H T n"],
    back: Int[Tensor, "B H T n"],
    recent: int,
    keep: int,
) -> Chosen:
    """Where the importance of a place never changes, what falls out of the first `keep` never comes back."""
    old = seen & (back >= recent)
    best = worth[:, :, None].masked_fill(~old, NOTHING).topk(min(keep, old.shape[-1]))
    return Chosen(seen & (back < recent), best.indices, best.values > NOTHING)


@torch.no_grad()
def by_attention(
    scores: Scores,
    worth: Float[Tensor, "B H n"],
    allowed: Bool[Tensor, "B H T S"],
    place: Int[Tensor, "B H n"],
    recent: int,
    of_ranks: Float[Tensor, "#H r"],
    *,
    whole: bool,
) -> tuple[Chosen, Float[Tensor, "B H n"]]:
    """Where every query adds to it: `worth` is the sum of what a place was given, and the mean decides.

    `whole`: `scores` has the keys of all places, and their attention counts. Else it has the keys of the
    places that are here, and what was dropped is given nothing. The second result is the new sum, `NOTHING`
    for what was dropped.
    """
    T, seen = allowed.shape[2], of_places(allowed, place)
    first, num_ranks = allowed.shape[3] - T, min(of_ranks.shape[1], place.shape[2])
    counts = (of_ranks > 0)[None, :, :num_ranks]
    alive = worth > NOTHING
    context = AttentionContext(mask=allowed if whole else seen, is_causal=False)
    found: list[Chosen] = []
    for start in range(0, T, fused.ROWS):
        rows = scores.rows(context, start, min(start + fused.ROWS, T)).float()
        for t, row in enumerate(rows.unbind(dim=2), start):
            if whole:
                given = row.softmax(dim=-1).gather(2, place)
            else:
                given = row.masked_fill(~alive, NOTHING).softmax(dim=-1)
            worth, back = worth + given, first + t - place
            is_recent, here = back < recent, alive & seen[:, :, t]
            mean = (worth / (back + 1).clamp(min=1)).masked_fill(~here | is_recent, NOTHING)
            best = mean.topk(num_ranks)
            valid = (best.values > NOTHING) & counts
            alive = is_recent | torch.zeros_like(alive).scatter(2, best.indices, valid)
            found.append(Chosen(here & is_recent, best.indices, valid))
    together = Chosen(*(torch.stack(parts, dim=2) for parts in zip(*found, strict=True)))
    return together, worth.masked_fill(~alive, NOTHING)


def of_places(allowed: Bool[Tensor, "B H T S"], place: Int[Tensor, "B H n"]) -> Bool[Tensor, "B H T n"]:
    return allowed.gather(3, place[:, :, None].expand(-1, -1, allowed.shape[2], -1))
