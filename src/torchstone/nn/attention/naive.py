"""The slow twins of the attention mechanisms: one head and one pair of places at a time.

Each takes the module of its mechanism, one sequence x (T, C), the model's configuration and what the block
before sent (without a batch dimension), and gives what the fast form must give.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.naive import naive_heads, naive_join, naive_rope, naive_softmax

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.attention.mla import LatentAttention
    from torchstone.nn.attention.ra import ReciprocalAttention
    from torchstone.nn.gpt import GPTConfig

Rows = list[Tensor]
"""For each place its scores with the places up to its own."""


def naive_reciprocal(
    layer: ReciprocalAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    q, k, v = naive_qkv(layer, x, config)
    scores = [
        reciprocal_rows(q[head], k[head], layer.reciprocity.alpha, config.attention.window)
        for head in range(layer.num_heads)
    ]
    weights = [naive_softmax(each) for each in scores]
    mixed = [weights[head] @ v[head] for head in range(layer.num_heads)]
    return Attended(
        out=naive_join(mixed, sent) @ layer.out.weight.T + layer.out.bias,
        weights=torch.stack(weights).mean(0),
    )


def naive_latent(
    layer: LatentAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    """Keys and values of each head are written out: k = U_h c_K, v = P_h c_V."""
    latent = x @ layer.key_down.weight.T
    if sent.latent is not None:
        latent = latent + sent.latent
    values = x @ layer.value_down.weight.T
    rope = config.positions == "rope"
    weights, mixed = [], []
    for head, q in enumerate(naive_heads(x @ layer.query.weight.T, layer.num_heads)):
        number = head if config.attention.maps == "per-head" else 0
        q = q @ layer.into_latent[number]
        k = latent
        if rope:
            q, k = naive_rope(q), naive_rope(k)
        if layer.reciprocity is None:
            rows = reciprocal_rows(q, k, 0.0, 0)
        else:
            rows = reciprocal_rows(q, k, layer.reciprocity.alpha, config.attention.window)
        weights.append(naive_softmax(rows))
        mixed.append(weights[-1] @ (values @ layer.out_of_latent[number]))
    return Attended(
        out=naive_join(mixed, sent) @ layer.out.weight.T,
        latent=latent,
        weights=torch.stack(weights).mean(0),
    )


def naive_qkv(
    layer: ReciprocalAttention, x: Float[Tensor, "T C"], config: GPTConfig
) -> tuple[Rows, Rows, Rows]:
    """Queries, keys and values of each head, (T, D) each."""
    C = x.shape[1]
    qkv = x @ layer.qkv.weight.T + layer.qkv.bias
    q, k, v = (naive_heads(qkv[:, part * C : (part + 1) * C], layer.num_heads) for part in range(3))
    if config.positions == "rope":
        q, k = [naive_rope(each) for each in q], [naive_rope(each) for each in k]
    return q, k, v


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
