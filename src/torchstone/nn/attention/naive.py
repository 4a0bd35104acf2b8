"""The slow twins of the attention mechanisms: one head and one pair of places at a time.

Each takes the module of its mechanism, one sequence x (T, C), the model's configuration and what the block
before sent (without a batch dimension), and gives what the fast form must give.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.naive import (
    naive_heads,
    naive_join,
    naive_linear,
    naive_qkv,
    naive_rope,
    naive_scores,
    naive_softmax,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.attention.causal import CausalSelfAttention
    from torchstone.nn.attention.mla import LatentAttention
    from torchstone.nn.config import AttentionConfig
    from torchstone.nn.gpt import GPTConfig

Rows = list[Tensor]
"""For each place its scores with the places up to its own."""


def naive_heads_attention(
    layer: CausalSelfAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    """ra and ra-ct, and sdpa where a layer has neither part."""
    q, k, v = naive_qkv(layer, x, config)
    scores = [naive_rows(layer, q[head], k[head], config) for head in range(layer.num_heads)]
    weights, factors = naive_moderation(layer, scores, config)
    mixed = [factors[head] * (weights[head] @ v[head]) for head in range(layer.num_heads)]
    return Attended(
        out=naive_linear(layer.out, naive_join(mixed, sent)),
        weights=torch.stack(weights).mean(0),
    )


def naive_latent(
    layer: LatentAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    """Values of each head are written out: v = P_h c_V."""
    latent = x @ layer.key_down.weight.T
    if sent.latent is not None:
        latent = latent + sent.latent
    values = x @ layer.value_down.weight.T
    scores = []
    for head, q in enumerate(naive_heads(x @ layer.query.weight.T, layer.num_heads)):
        q, k = q @ layer.into_latent[head if config.attention.maps == "per-head" else 0], latent
        if config.positions == "rope":
            q, k = naive_rope(q), naive_rope(k)
        scores.append(naive_rows(layer, q, k, config))
    weights, factors = naive_moderation(layer, scores, config)
    mixed = []
    for head in range(layer.num_heads):
        out_of = layer.out_of_latent[head if config.attention.maps == "per-head" else 0]
        mixed.append(factors[head] * (weights[head] @ (values @ out_of)))
    return Attended(
        out=naive_join(mixed, sent) @ layer.out.weight.T,
        latent=latent,
        weights=torch.stack(weights).mean(0),
    )


def naive_moderation(
    layer: nn.Module, scores: list[Rows], config: GPTConfig
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of each head, (T, T), and the factors on its output, (T, 1); RA-CT where the layer has it."""
    weights = [naive_softmax(rows) for rows in scores]
    gate = getattr(layer, "cross_token", None)
    if gate is None:
        return weights, [torch.ones(len(weights[0]), 1)] * len(weights)
    options = config.attention
    seen = [torch.stack(weights).mean(0)] * len(weights) if options.head_average else weights
    if options.detach_stats:
        seen = [each.detach() for each in seen]
    factors = []
    for head, each in enumerate(seen):
        found = torch.stack([naive_statistic(each[t, : t + 1], options) for t in range(len(each))])
        opening = 1 / (1 + torch.exp(-(gate.scale[head] * found + gate.bias[head])))
        strength = 1.0 if options.apply == "output-2025" else options.strength
        factors.append((1 - strength + strength * opening)[:, None])
    if options.apply != "weights":
        return weights, factors
    moderated = [
        [factor * row for factor, row in zip(factors[h], scores[h], strict=True)] for h in range(len(scores))
    ]
    return [naive_softmax(rows) for rows in moderated], [torch.ones_like(each) for each in factors]


def naive_statistic(p: Float[Tensor, " t"], options: AttentionConfig) -> Float[Tensor, ""]:
    if options.statistic == "topk":
        return p.sort(descending=True).values[: options.topk].sum()
    if options.statistic == "max":
        return p.max()
    if options.statistic == "rms":
        return (p**2).mean() ** 0.5
    return -(p * p.log()).sum()


def naive_rows(layer: nn.Module, q: Float[Tensor, "T D"], k: Float[Tensor, "T D"], config: GPTConfig) -> Rows:
    """Scores; with the reciprocal term where the layer has it."""
    reciprocity = getattr(layer, "reciprocity", None)
    if reciprocity is None:
        return naive_scores(q, k)
    rows = naive_rank_one if config.attention.name == "ra_rank1_2025" else reciprocal_rows
    return rows(q, k, reciprocity.alpha, config.attention.window)


def reciprocal_rows(
    q: Float[Tensor, "T D"], k: Float[Tensor, "T D"], alpha: Tensor | float, window: int | None
) -> Rows:
    """S_ts, and alpha times S_st where s is at most `window` places before t."""
    scale = 1 / math.sqrt(q.shape[1])
    rows = []
    for t in range(len(q)):
        row = []
        for s in range(t + 1):
            score = scale * (q[t] @ k[s])
            if window is None or t - s <= window:
                score = score + alpha * scale * (q[s] @ k[t])
            row.append(score)
        rows.append(torch.stack(row))
    return rows


def naive_rank_one(
    q: Float[Tensor, "T D"], k: Float[Tensor, "T D"], alpha: Tensor | float, window: int | None
) -> Rows:
    """S_ts, and alpha times the product of the sums of q_t and k_s where s is at most `window` before t."""
    scale = 1 / math.sqrt(q.shape[1])
    rows = []
    for t, row in enumerate(naive_scores(q, k)):
        extra = [
            alpha * scale * q[t].sum() * k[s].sum() if window is None or t - s <= window else q.new_zeros(())
            for s in range(t + 1)
        ]
        rows.append(row + torch.stack(extra))
    return rows
