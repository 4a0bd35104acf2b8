"""Learned KVSplice: the latent that keys and values come from is cached through a narrower one.

    z = x W + b                               L channels, of which queries are made
    c = (s z + t) W_c                         K channels, which are cached;  s = softplus(scale)
    z^ = (c W_e - t) / (s + 1e-6)             of which keys and values are made

W_c has orthonormal columns at first and W_e is its transpose, s = 1 and t = 0. Everything is in the forward
pass, so training knows what the cache loses. mcgrof/AdamWPrune at 0a0fda9 (2025-11), without rotary
positions: keys made again from the cache would need the positions of all tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.heads import join_heads, require_heads, split_heads
from torchstone.nn.attention.naive_splice import naive_learned_splice
from torchstone.nn.attention.record import AttentionRecord
from torchstone.nn.attention.scores import Scores, score_flops

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig

EPS = 1e-6


class SplicedLatentAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        require_heads(config.d_model, config.num_heads)
        C, L, K = config.d_model, config.attention.latent, config.attention.kept
        if K > L:
            raise ConfigError(f"model.attention.kept={K} is more than model.attention.latent={L}")
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.down = nn.Linear(C, L, bias=config.bias)
        self.query = nn.Linear(L, C, bias=config.bias)
        self.keys_values = nn.Linear(L, 2 * C, bias=config.bias)
        self.scale = nn.Parameter(torch.full((L,), math.log(math.e - 1)))  # softplus of it is 1
        self.shift = nn.Parameter(torch.zeros(L))
        self.compress = nn.Parameter(torch.empty(L, K))
        self.expand = nn.Parameter(torch.empty(K, L))
        self.out = nn.Linear(C, C, bias=config.bias)
        self.residual_dropout = nn.Dropout(config.dropout)
        self.initialise()

    def initialise(self) -> None:
        nn.init.orthogonal_(self.compress)
        with torch.no_grad():
            self.expand.copy_(self.compress.T)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        latent = self.down(x) if sent.latent is None else self.down(x) + sent.latent
        scale = F.softplus(self.scale)
        kept = (scale * latent + self.shift) @ self.compress
        if past is not None:
            kept = torch.cat([past[0][:, 0], kept], dim=1)
        again = (kept @ self.expand - self.shift) / (scale + EPS)
        q = split_heads(self.query(latent), self.num_heads)
        k, v = (split_heads(part, self.num_heads) for part in self.keys_values(again).chunk(2, dim=-1))
        scores = Scores(q, k, q.shape[-1] ** -0.5)
        mixed = scores.attend(v, context, dropout=self.dropout if self.training else 0.0)
        return Attended(
            out=self.residual_dropout(self.out(join_heads(mixed, sent))),
            cache=(kept[:, None],) if context.keep_cache else (),
            latent=latent,
            weights=scores.mean_weights(context) if context.keep_weights else None,
            looked=Looked(scores, context) if context.keep_scores else None,
        )


def _parameters(config: GPTConfig, layer: int) -> int:
    C, L, K = config.d_model, config.attention.latent, config.attention.kept
    b = config.bias
    return (C + b) * L + (L + b) * 3 * C + 2 * L + 2 * L * K + (C + b) * C


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, L, K = config.d_model, config.attention.latent, config.attention.kept
    D = C // config.num_heads
    maps = 2 * tokens * (4 * C * L + 2 * L * K + C**2)
    return maps + score_flops(tokens, D, D, config.num_heads)


RECORDS = (
    AttentionRecord(
        name="mla-kvsplice",
        summary="keys and values from a latent that is cached through a narrower one",
        equation="c = (s z + t) W_c is cached, z = x W; k and v come from (c W_e - t) / s",
        source="mcgrof/AdamWPrune at 0a0fda9 (2025-11)",
        make=lambda config, layer: SplicedLatentAttention(config),
        naive=naive_learned_splice,
        parameters=_parameters,
        flops=_flops,
        cache=lambda config, layer, tokens: config.attention.kept * tokens,
        rotary_width=lambda config: None,
        latent_width=lambda config: config.attention.latent,
    ),
)
