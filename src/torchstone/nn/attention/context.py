"""What travels through one forward pass: what all blocks share, and what one block hands to the next.

`AttentionContext` is computed once per forward. `Attended` goes from a block's attention to its MLP,
`Handoff` from a block to the next one; the first block gets an empty one. All are arguments and results.
Nothing is left on the modules, so one call can never change the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from torchstone.nn.attention.scores import Scores

Cache = tuple[Tensor, ...]
"""What one block keeps for the tokens to come: first its attention's tensors, then its MLP's.

Every tensor has its places in dimension 2, and the first one has a place for every token so far (it may be of
width 0), so that its shape tells how many there were.
"""


@dataclass(frozen=True)
class AttentionContext:
    """`mask` is True where a query may look; None means: plain causal over equal lengths, or no limit."""

    mask: Bool[Tensor, "B 1 T S"] | None = None
    is_causal: bool = True
    rotary: tuple[Float[Tensor, "B 1 T D"], Float[Tensor, "B 1 T D"]] | None = None
    keep_cache: bool = False
    keep_weights: bool = False
    """Some MLP reads `Attended.weights`."""
    keep_scores: bool = False
    """Somebody looks at `Attended.looked`."""


class Handoff(NamedTuple):
    """What an attention hears beside its input, mostly from the block before. None: nothing was said."""

    gate: Float[Tensor, "B H T"] | None = None
    """Factor on each head's output; every attention applies it."""
    latent: Float[Tensor, "B T L"] | None = None
    """Added to the latent of the keys; for attention whose record tells a `latent_width`."""
    confidence: Float[Tensor, ""] | None = None
    """How much the MLP of the own block hears of this attention; where the record `hears_confidence`."""


class Looked(NamedTuple):
    """By which scores the heads weighed the values, and what each query could see."""

    scores: Scores
    context: AttentionContext
    shares: Float[Tensor, "B H T S"] | None = None
    """Factor on each weight of the softmax; the weights of a query then sum to 1 again."""


class Attended(NamedTuple):
    """What attention gives to its block, and what the block's MLP may read."""

    out: Float[Tensor, "B T C"]
    """Goes to the residual stream."""
    cache: Cache = ()
    latent: Float[Tensor, "B T L"] | None = None
    """Latent of the keys, where the record tells a `latent_width`."""
    weights: Float[Tensor, "B T S"] | None = None
    """Mean over the heads of the attention weights, without gradient, where `keep_weights` asks for them."""
    looked: Looked | None = None
    """How the heads looked at the tokens, where `keep_scores` asks."""
    mlp_share: Float[Tensor, ""] | None = None
    """Factor on the MLP's branch, where the attention decides how the two share the residual stream."""
    projection: Float[Tensor, "C C"] | None = None
    """Weight of the attention's own output projection, where the MLP's record `reads_projection`."""


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
