"""Multi-head latent attention: keys and values of all heads come from two narrow latents, which are cached.

After DeepSeek-AI 2024 (arXiv:2405.04434), in the form of the RATIO study: c_K = x W_dk and c_V = x W_dv are
shared by the heads; a map U_h of each head (or one for all) carries its queries into the latent, a map P_h
carries what it mixed out of it. Carrying the query in and the mixture out is the same product as carrying
keys and values out, and lets the fused kernel work on the latents themselves. Rotary positions turn query and
key in the latent. With reciprocity, a score also has that of the pair the other way round (`reciprocity.py`).

L is the width of a latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.cross_token import CrossTokenGate, cross_token_flops
from torchstone.nn.attention.heads import join_heads, require_heads, split_heads
from torchstone.nn.attention.naive import naive_latent
from torchstone.nn.attention.reciprocity import Reciprocity, make_reciprocity
from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.rotary import rotate

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class LatentAttention(nn.Module):
    """`reciprocity` and `cross_token` None: plain MLA."""

    def __init__(
        self,
        config: GPTConfig,
        reciprocity: Reciprocity | None = None,
        cross_token: CrossTokenGate | None = None,
    ) -> None:
        super().__init__()
        require_heads(config.d_model, config.num_heads)
        options = config.attention
        self.num_heads = config.num_heads
        self.head_width = config.d_model // config.num_heads
        self.dropout = config.dropout
        num_maps = config.num_heads if options.maps == "per-head" else 1
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key_down = nn.Linear(config.d_model, options.latent, bias=False)
        self.value_down = nn.Linear(config.d_model, options.latent, bias=False)
        self.into_latent = nn.Parameter(torch.empty(num_maps, self.head_width, options.latent))
        self.out_of_latent = nn.Parameter(torch.empty(num_maps, options.latent, self.head_width))
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.residual_dropout = nn.Dropout(config.dropout)
        self.reciprocity = reciprocity
        self.cross_token = cross_token
        self.initialise()

    def initialise(self) -> None:
        """Xavier-uniform maps, of gain 1/sqrt(2) into the latent and 1/sqrt(L) out of it."""
        for head in range(len(self.into_latent)):
            nn.init.xavier_uniform_(self.into_latent[head], gain=2**-0.5)
            nn.init.xavier_uniform_(self.out_of_latent[head], gain=self.out_of_latent.shape[1] ** -0.5)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        latent = self.key_down(x) if sent.latent is None else self.key_down(x) + sent.latent
        q = split_heads(self.query(x), self.num_heads) @ self.into_latent
        k, v = latent[:, None], self.value_down(x)[:, None]
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores, kept = self._scores(
            q, k.expand(-1, self.num_heads, -1, -1), None if past is None else past[2:]
        )
        values, dropout = v.expand(-1, self.num_heads, -1, -1), self.dropout if self.training else 0.0
        if self.cross_token is None:
            mixed = scores.attend(values, context, dropout=dropout)
        else:
            mixed, scores = self.cross_token(scores, values, context, dropout)
        return Attended(
            out=self.residual_dropout(self.out(join_heads(mixed @ self.out_of_latent, sent))),
            cache=(k, v, *kept) if context.keep_cache else (),
            latent=latent,
            weights=scores.mean_weights(context) if context.keep_weights else None,
            looked=Looked(scores, context) if context.keep_scores else None,
        )

    def _scores(
        self, q: Float[Tensor, "B H T L"], k: Float[Tensor, "B H S L"], past: Cache | None
    ) -> tuple[Scores, Cache]:
        scale = k.shape[-1] ** -0.5
        return (Scores(q, k, scale), ()) if self.reciprocity is None else self.reciprocity(q, k, scale, past)


def latent_parameters(config: GPTConfig, layer: int) -> int:
    C, L = config.d_model, config.attention.latent
    maps = 2 * C * L if config.attention.maps == "per-head" else 2 * C // config.num_heads * L
    return 2 * C**2 + 2 * C * L + maps


def latent_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    """All but the scores and the mixing: every map is used by every token, shared or not."""
    C, L = config.d_model, config.attention.latent
    return 2 * tokens * (2 * C**2 + 4 * C * L)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    L = config.attention.latent
    return latent_flops(config, layer, tokens) + score_flops(tokens, L, L, config.num_heads)


def _reciprocal_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    L, window = config.attention.latent, config.attention.window
    return latent_flops(config, layer, tokens) + score_flops(tokens, 2 * L, L, config.num_heads, window)


def latent_cache(config: GPTConfig, layer: int, tokens: int) -> int:
    return 2 * config.attention.latent * tokens


def _reciprocal_cache(config: GPTConfig, layer: int, tokens: int) -> int:
    options = config.attention
    kept = tokens if options.window is None else min(tokens, options.window)
    return latent_cache(config, layer, tokens) + config.num_heads * options.latent * kept


def _ct_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    return _flops(config, layer, tokens) + cross_token_flops(config, tokens, config.attention.latent)


def _reciprocal_ct_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    L, window = config.attention.latent, config.attention.window
    return _reciprocal_flops(config, layer, tokens) + cross_token_flops(config, tokens, 2 * L, window)


def _gate(config: GPTConfig) -> CrossTokenGate:
    return CrossTokenGate(config.attention, config.num_heads)


_SOURCE = "after arXiv:2405.04434, in the form of mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025)"
_LATENT: dict[str, Any] = {
    "naive": naive_latent,
    "rotary_width": lambda config: config.attention.latent,
    "latent_width": lambda config: config.attention.latent,
}


def _twice(config: GPTConfig) -> int:
    return 2 * config.attention.latent


RECORDS = (
    AttentionRecord(
        name="mla",
        summary="keys and values from narrow latents, which are cached instead",
        equation="S_ij = (q_i U_h) . c_j / sqrt(L), y_i = (sum_j p_ij d_j) P_h, with latents c = x W_dk "
        "and d = x W_dv",
        source=_SOURCE,
        make=lambda config, layer: LatentAttention(config),
        parameters=latent_parameters,
        flops=_flops,
        cache=latent_cache,
        score_width=lambda config: config.attention.latent,
        **_LATENT,
    ),
    AttentionRecord(
        name="mla-ra",
        summary="mla whose scores have a reciprocal term in a causal band",
        equation="mla with S_ij + alpha S_ji where i - j <= window",
        source=_SOURCE + ", as it was meant",
        make=lambda config, layer: LatentAttention(config, make_reciprocity(config)),
        parameters=lambda config, layer: latent_parameters(config, layer) + config.attention.learn_alpha,
        flops=_reciprocal_flops,
        score_width=_twice,
        cache=_reciprocal_cache,
        **_LATENT,
    ),
    AttentionRecord(
        name="mla-ct",
        summary="mla moderated by a statistic of each row of its weights",
        equation="mla moderated as ra-ct",
        source=_SOURCE + ", as it was meant",
        make=lambda config, layer: LatentAttention(config, None, _gate(config)),
        parameters=lambda config, layer: latent_parameters(config, layer) + 2 * config.num_heads,
        flops=_ct_flops,
        cache=latent_cache,
        score_width=lambda config: config.attention.latent,
        **_LATENT,
    ),
    AttentionRecord(
        name="mla-ra-ct",
        summary="mla with the reciprocal term, moderated by a statistic of each row of its weights",
        equation="mla-ra moderated as ra-ct",
        source=_SOURCE + ", as it was meant",
        make=lambda config, layer: LatentAttention(config, make_reciprocity(config), _gate(config)),
        parameters=lambda config, layer: (
            latent_parameters(config, layer) + config.attention.learn_alpha + 2 * config.num_heads
        ),
        flops=_reciprocal_ct_flops,
        score_width=_twice,
        cache=_reciprocal_cache,
        **_LATENT,
    ),
)
