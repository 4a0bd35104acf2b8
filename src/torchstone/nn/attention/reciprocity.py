"""The reciprocal term of RA: the score of a pair is also moved by the score of the pair the other way round.

    S'_ij = S_ij + alpha * S_ji    for j <= i <= j + window,    S_ji = q_j . k_i / sqrt(D)

q_j and k_i are both of places up to i, so nothing later is seen. As the term is a product of the key of i
with the query of j, keys become extra channels of the queries, and queries of the keys (`scores.py`);
decoding therefore keeps the queries of the last `window` places. From mcgrof/AdamWPrune:
gpt2/ra_mla_gpt2.py (2025), as its text defines it; what its code computed is `ra_rank1_2025`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Cache
from torchstone.nn.attention.scores import Scores
from torchstone.nn.gates import Gates
from torchstone.nn.warmup import WarmUp

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class Reciprocity(Gates, nn.Module):
    """Makes the scores of queries and keys, and tells which queries to keep; alpha is one number."""

    def __init__(
        self, alpha: float, window: int | None, *, learned: bool = False, warmup_steps: int = 0
    ) -> None:
        super().__init__()
        self.window = window
        self.warm_up = WarmUp(warmup_steps) if warmup_steps else None
        self.alpha: nn.Parameter | float = nn.Parameter(torch.tensor(alpha)) if learned else alpha

    def forward(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H S D"],
        scale: float,
        past: Cache | None,
    ) -> tuple[Scores, Cache]:
        """`past` holds the queries kept for the places before; the second result those to keep now."""
        queries = q if past is None else torch.cat([past[0], q], dim=2)
        own_keys = k[:, :, k.shape[2] - q.shape[2] :]
        scores = Scores(q, k, scale, self.weight() * own_keys, queries, self.window)
        surplus = 0 if self.window is None else max(0, queries.shape[2] - self.window)
        # A copy, for a view would keep the queries of all places.
        return scores, (queries[:, :, surplus:].clone() if surplus else queries,)

    def weight(self) -> Tensor | float:
        """Alpha, as far as it has warmed up."""
        return self.alpha if self.warm_up is None else self.warm_up(self.alpha)

    def gates(self) -> dict[str, Tensor]:
        weight = self.weight()
        return {"alpha": weight} if isinstance(weight, Tensor) else {}

    def extra_repr(self) -> str:
        learned = isinstance(self.alpha, nn.Parameter)
        return f"window={self.window}, alpha={'learned' if learned else self.alpha}"


def make_reciprocity(config: GPTConfig) -> Reciprocity:
    options = config.attention
    return Reciprocity(
        options.alpha, options.window, learned=options.learn_alpha, warmup_steps=options.warmup_steps
    )
