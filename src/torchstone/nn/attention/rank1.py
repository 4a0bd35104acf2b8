"""`ra_rank1_2025`: what the code of 2025 computed under the name of RA, kept for comparison.

    S'_ij = S_ij + alpha * (sum_c q_ic) * (sum_c k_jc) / sqrt(L)    for j <= i <= j + window

The letters of its einsum did not match, so that both factors were summed over their channels first: a product
of two vectors, of rank 1 per head, and neither the scores nor their transpose. It ran on latents (`mla.py`).
mcgrof/AdamWPrune at 76dd2d0: gpt2/ra_mla_gpt2.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchstone.nn.attention.context import Cache
from torchstone.nn.attention.mla import LatentAttention, latent_cache, latent_flops, latent_parameters
from torchstone.nn.attention.naive import naive_latent
from torchstone.nn.attention.reciprocity import Reciprocity
from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.scores import Scores, score_flops

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class RankOne(Reciprocity):
    def forward(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H S D"],
        scale: float,
        past: Cache | None,
    ) -> tuple[Scores, Cache]:
        own = self.weight() * q.sum(dim=-1, keepdim=True)
        return Scores(q, k, scale, own, k.sum(dim=-1, keepdim=True), self.window), ()


def _make(config: GPTConfig, layer: int) -> LatentAttention:
    options = config.attention
    term = RankOne(
        options.alpha, options.window, learned=options.learn_alpha, warmup_steps=options.warmup_steps
    )
    return LatentAttention(config, term)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    L, window = config.attention.latent, config.attention.window
    return latent_flops(config, layer, tokens) + score_flops(tokens, L + 1, L, config.num_heads, window)


RECORDS = (
    AttentionRecord(
        name="ra_rank1_2025",
        summary="mla-ra as its code computed it in 2025: a term of rank 1 instead of the transpose",
        equation="mla with S_ij + alpha (sum_c q_ic) (sum_c k_jc) / sqrt(L) where i - j <= window",
        source="mcgrof/AdamWPrune at 76dd2d0: gpt2/ra_mla_gpt2.py",
        make=_make,
        naive=naive_latent,
        parameters=lambda config, layer: latent_parameters(config, layer) + config.attention.learn_alpha,
        flops=_flops,
        cache=latent_cache,
        score_width=lambda config: config.attention.latent + 1,
        rotary_width=lambda config: config.attention.latent,
        latent_width=lambda config: config.attention.latent,
    ),
)
