"""The slow twins of the variations of ordinary attention: gate, ties, restart, folded, lens, residual.

As in `naive.py`: the module, one sequence x (T, C), the configuration, what was sent -> what it must give.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.attention.naive import Rows
from torchstone.nn.naive import (
    naive_causal,
    naive_heads,
    naive_join,
    naive_linear,
    naive_norm,
    naive_prepared,
    naive_qkv,
    naive_rope,
    naive_scores,
    naive_softmax,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.attention.causal import CausalSelfAttention
    from torchstone.nn.attention.folded import FoldedAttention, UntiedFoldedAttention
    from torchstone.nn.attention.gated import GatedAttention
    from torchstone.nn.attention.lens import LensAttention
    from torchstone.nn.attention.residual import SwappedResidualAttention
    from torchstone.nn.attention.restart import Restart, RestartAttention
    from torchstone.nn.attention.tied import TiedAttention
    from torchstone.nn.gpt import GPTConfig

Heads = list[Tensor]


def naive_gated(layer: GatedAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff) -> Attended:
    mixed, weights = _mixed(*naive_qkv(layer, x, config))
    opening = 1 / (1 + torch.exp(-(x @ layer.gate.weight.T)))
    return _finished(layer, naive_join(mixed, sent) * opening, weights)


def naive_tied(layer: TiedAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff) -> Attended:
    C = x.shape[1]
    first, last = (naive_linear(layer.parts, x)[:, part : part + C] for part in (0, C))
    q, k, v = first, last, last
    if layer.tie == "queries-keys":
        k = first
    elif layer.tie == "keys-values-transposed":
        k = x @ layer.parts.weight[C:] + (0 if layer.key_bias is None else layer.key_bias)
    queries, keys, values = (naive_heads(each, layer.num_heads) for each in (q, k, v))
    queries = naive_prepared(layer.query_norm, queries, config)
    keys = naive_prepared(layer.key_norm, keys, config)
    mixed, weights = _mixed(queries, keys, values)
    return _finished(layer, naive_join(mixed, sent), weights)


def naive_restart(
    layer: RestartAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    q, k, v = naive_qkv(layer, x, config)
    mixed, weights = _mixed(q, k, v)
    return _finished(layer, naive_join(_restarted(layer.restart, mixed, v), sent), weights)


def naive_folded(
    layer: FoldedAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    both = naive_linear(layer.queries_keys, x)
    half = both.shape[1] // 2
    q, k = (naive_heads(part, layer.num_heads) for part in (both[:, :half], both[:, half:]))
    v = naive_heads(naive_linear(layer.values, x), layer.num_heads)
    if config.positions == "rope":
        q, k = [naive_rope(each) for each in q], [naive_rope(each) for each in k]
    rank_one_by_one = layer.to_low @ layer.to_low.T
    scores = []
    for h in range(layer.num_heads):
        rows = []
        for t in range(len(x)):
            standard = torch.stack([q[h][t] @ k[h][s] for s in range(t + 1)])
            reciprocal = torch.stack([k[h][t] @ rank_one_by_one @ q[h][s] for s in range(t + 1)])
            on = 1.0 if layer.switch is None else layer.switch.factor
            joined = layer.standard[h] * standard + on * layer.reciprocal[h] * reciprocal
            rows.append(joined / math.sqrt(layer.head_width))
        scores.append(rows)
    mixed, weights = _weighted(scores, v)
    return _finished(layer, naive_join(_restarted(layer.restart, mixed, v), sent), weights)


def naive_untied(
    layer: UntiedFoldedAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    C, scaled = x.shape[1], []
    projected = x @ layer.qkv.weight.T
    q, k, v = (naive_heads(projected[:, part * C : (part + 1) * C], layer.num_heads) for part in range(3))
    for each in (q, k):
        heads = []
        for h, head in enumerate(each):
            roots = [w[h].clamp(min=1e-4) ** 0.5 for w in (layer.standard, layer.reciprocal)]
            wide = layer.sizes[0]
            heads.append(torch.cat([roots[0] * head[:, :wide], roots[1] * head[:, wide:]], dim=1))
        scaled.append([naive_rope(head) for head in heads] if config.positions == "rope" else heads)
    mixed, weights = _mixed(scaled[0], scaled[1], v)
    return _finished(layer, naive_join(_restarted(layer.restart, mixed, v), sent), weights)


def naive_lens(layer: LensAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff) -> Attended:
    if layer.key is None or layer.value is None:
        q, k, v = naive_qkv(layer, x, config)
    else:
        wide = [naive_linear(p.up, x @ p.down.weight.T) for p in (layer.key, layer.value)]
        query = naive_linear(layer.query, x)
        q, k, v = (naive_heads(each, layer.num_heads) for each in (query, *wide))
    scores = []
    for h in range(layer.num_heads):
        powers = torch.exp(layer.logits[h])
        share = dict(zip(layer.views, powers / powers.sum(), strict=True))
        rows = []
        for t, row in enumerate(naive_scores(q[h], k[h])):
            found = share["score"] * row
            if "reciprocity" in share:
                other = torch.stack([k[h][t] @ q[h][s] for s in range(t + 1)]) / math.sqrt(layer.head_width)
                found = found + share["reciprocity"] * other
            if layer.wanted is not None:
                wanted = torch.stack([k[h][s] @ layer.wanted[h] for s in range(t + 1)])
                # As published, less the mean; over the keys that may be known.
                found = found + share["discoverability"] * (wanted - wanted.mean())
            rows.append(found)
        scores.append(rows)
    mixed, weights = _weighted(scores, v)
    found = _finished(layer, naive_join(mixed, sent), weights)
    if layer.route is None:
        return found
    part = 1 / (1 + torch.exp(-(layer.route.logit + layer.route.bias)))
    return found._replace(out=part * found.out, mlp_share=1 - part)


def naive_residual(
    layer: SwappedResidualAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    base = naive_causal(layer, x, config, sent)
    if not hasattr(layer, "swapped"):
        return base  # no block of the middle
    q, k, v = (each[: layer.num_swapped] for each in naive_qkv(layer, x, config))
    mixed, _ = _mixed(k, q, v)
    extra = naive_norm(layer.swapped_norm, naive_join(mixed, sent) @ layer.swapped.weight.T)
    return base._replace(out=base.out + torch.tanh(layer.strength) * extra)


def _mixed(q: Heads, k: Heads, v: Heads) -> tuple[Heads, Heads]:
    return _weighted([naive_scores(q[h], k[h]) for h in range(len(q))], v)


def _weighted(scores: list[Rows], v: Heads) -> tuple[Heads, Heads]:
    weights = [naive_softmax(rows) for rows in scores]
    return [weights[h] @ v[h] for h in range(len(v))], weights


def _restarted(restart: Restart | None, mixed: Heads, v: Heads) -> Heads:
    if restart is None:
        return mixed
    shares = [min(max(share, 0 * share), 0 * share + 0.5) for share in restart.share]
    return [(1 - share) * m + share * own for share, m, own in zip(shares, mixed, v, strict=True)]


def _finished(layer: CausalSelfAttention, joined: Float[Tensor, "T C"], weights: Heads) -> Attended:
    out = naive_linear(layer.out, joined)
    return Attended(out=out, weights=torch.stack(weights).mean(0))
