"""Folded RA: a reciprocal term of low rank that fits into the width of ordinary attention.

Of the D channels of a head D - R carry queries and keys, and R carry what reciprocity needs of them, by one
map P of the layer:

    S_ij = (w_std q_i . k_j + w_rec (k_i P) . (q_j P)) / sqrt(D)

As (k_i P) and (q_j P) are joined to q_i and k_j, one fused call of width D computes it. w_std and w_rec are
learned per head, (D - R)/D and R/D at first; `restart` adds the term of `restart.py`. The reciprocal term may
be off for `activation_steps` optimizer steps or until the loss has calmed (`variance-guided`); w_rec then
begins at 0.1.

`ra_folded_untied_2025` is what the code of 2025 computed: the R channels are free projections that nothing
ties to the others, so it is ordinary attention with some rows of its projection rescaled by sqrt(w).
mcgrof/AdamWPrune: gpt2/ra.py (2025-11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.causal import CausalSelfAttention, causal_cache, causal_flops
from torchstone.nn.attention.context import AttentionContext, Cache
from torchstone.nn.attention.heads import split_heads
from torchstone.nn.attention.naive_heads import naive_folded, naive_untied
from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.restart import Restart
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.gates import Gates
from torchstone.nn.switch import Delayed, VarianceGuided

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.config import AttentionConfig
    from torchstone.nn.gpt import GPTConfig

WEIGHT_AT_ACTIVATION = 0.1
SMALLEST = 1e-4
"""A weight under a square root stays above it."""


class FoldedAttention(Gates, CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.rank = config.attention.rank
        require_rank(self.rank, self.head_width)
        width = self.head_width - self.rank
        self.queries_keys = nn.Linear(config.d_model, 2 * width * config.num_heads, bias=config.bias)
        self.values = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        del self.qkv
        self.to_low = nn.Parameter(torch.empty(width, self.rank))
        self.standard = nn.Parameter(torch.full((config.num_heads,), width / self.head_width))
        self.switch = _switch(config.attention)
        share = self.rank / self.head_width if self.switch is None else WEIGHT_AT_ACTIVATION
        self.reciprocal = nn.Parameter(torch.full((config.num_heads,), share))
        self.restart = Restart(config.num_heads) if config.attention.restart else None
        self.initialise()

    def initialise(self) -> None:
        """Orthonormal columns: the low channels are a view of the others, not a rescaling."""
        nn.init.orthogonal_(self.to_low)

    def project(
        self, x: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B H T d"], Float[Tensor, "B H T d"], Float[Tensor, "B H T D"]]:
        q, k = (split_heads(part, self.num_heads) for part in self.queries_keys(x).chunk(2, dim=-1))
        return q, k, split_heads(self.values(x), self.num_heads)

    def scores(
        self, q: Float[Tensor, "B H T d"], k: Float[Tensor, "B H S d"], past: Cache | None
    ) -> tuple[Scores, Cache]:
        own = k[:, :, k.shape[2] - q.shape[2] :]
        low = q @ self.to_low
        if past is not None:
            low = torch.cat([past[0], low], dim=2)
        standard, reciprocal = (each[:, None, None] for each in self.gates().values())
        scale = self.head_width**-0.5
        return Scores(standard * q, k, scale, reciprocal * (own @ self.to_low), low), (low,)

    def mix(
        self, scores: Scores, v: Float[Tensor, "B H S D"], context: AttentionContext
    ) -> tuple[Float[Tensor, "B H T D"], Scores]:
        mixed, scores = super().mix(scores, v, context)
        return (mixed if self.restart is None else self.restart(mixed, v)), scores

    def gates(self) -> dict[str, Tensor]:
        reciprocal = self.reciprocal if self.switch is None else self.switch() * self.reciprocal
        return {"standard": self.standard, "reciprocal": reciprocal}


def _switch(options: AttentionConfig) -> Delayed | VarianceGuided | None:
    if options.activation == "variance-guided":
        return VarianceGuided.of(options)
    return Delayed(options.activation_steps) if options.activation_steps else None


class UntiedFoldedAttention(Gates, CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        rank = config.attention.rank
        require_rank(rank, self.head_width)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.sizes = (self.head_width - rank, rank)
        self.standard = nn.Parameter(torch.full((config.num_heads,), self.sizes[0] / self.head_width))
        self.reciprocal = nn.Parameter(torch.full((config.num_heads,), rank / self.head_width))
        self.restart = Restart(config.num_heads) if config.attention.restart else None

    def initialise(self) -> None:
        nn.init.xavier_uniform_(self.qkv.weight)

    def project(
        self, x: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        q, k, v = super().project(x)
        weights = [each.sqrt()[:, None] for each in self.gates().values()]
        factor = torch.cat([w.expand(-1, n) for w, n in zip(weights, self.sizes, strict=True)], dim=1)
        return q * factor[:, None], k * factor[:, None], v

    def mix(
        self, scores: Scores, v: Float[Tensor, "B H S D"], context: AttentionContext
    ) -> tuple[Float[Tensor, "B H T D"], Scores]:
        mixed, scores = super().mix(scores, v, context)
        return (mixed if self.restart is None else self.restart(mixed, v)), scores

    def gates(self) -> dict[str, Tensor]:
        both = {"standard": self.standard, "reciprocal": self.reciprocal}
        return {name: each.clamp(min=SMALLEST) for name, each in both.items()}


def require_rank(rank: int, head_width: int) -> None:
    if rank >= head_width:
        raise ConfigError(
            f"model.attention.rank={rank} leaves nothing of a head of {head_width} channels",
            next=f"choose a rank below {head_width}",
        )


def _gates(config: GPTConfig) -> int:
    return (3 if config.attention.restart else 2) * config.num_heads


def _parameters(config: GPTConfig, layer: int) -> int:
    C, H, R, b = config.d_model, config.num_heads, config.attention.rank, config.bias
    width = C // H - R
    return 2 * width * H * (C + b) + 2 * C * (C + b) + width * R + _gates(config)


def _untied_parameters(config: GPTConfig, layer: int) -> int:
    C = config.d_model
    return 4 * C**2 + C * config.bias + _gates(config)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, H, R = config.d_model, config.num_heads, config.attention.rank
    D, width = C // H, C // H - R
    projections = 2 * tokens * (2 * width * H * C + 2 * C**2 + 2 * H * width * R)
    return projections + score_flops(tokens, D, D, H)


RECORDS = (
    AttentionRecord(
        name="ra-folded",
        summary="a reciprocal term of low rank inside the width of ordinary attention",
        equation="S_ij = (w_std q_i . k_j + w_rec (k_i P) . (q_j P)) / sqrt(D), q and k of D - R channels, "
        "P of R columns",
        source="mcgrof/AdamWPrune: gpt2/ra.py (2025), with the tie that it lacked",
        make=lambda config, layer: FoldedAttention(config),
        naive=naive_folded,
        parameters=_parameters,
        flops=_flops,
        cache=causal_cache,
        rotary_width=lambda config: config.d_model // config.num_heads - config.attention.rank,
    ),
    AttentionRecord(
        name="ra_folded_untied_2025",
        summary="ra-folded as its code computed it in 2025: ordinary attention with rescaled channels",
        equation="sdpa, channels of q and k times sqrt(w_std), the last R times sqrt(w_rec)",
        source="mcgrof/AdamWPrune at 0700927: gpt2/ra.py",
        make=lambda config, layer: UntiedFoldedAttention(config),
        naive=naive_untied,
        parameters=_untied_parameters,
        flops=causal_flops,
        cache=causal_cache,
    ),
)
