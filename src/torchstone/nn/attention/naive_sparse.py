"""The slow twins of attention that sees a part of the places, and of walks over them.

As in `naive.py`: the module, one sequence x (T, C), the configuration, what was sent -> what it must give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.attention.naive import naive_qkv
from torchstone.nn.naive import naive_join, naive_scores, naive_softmax

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.attention.pruned import PrunedAttention
    from torchstone.nn.attention.rwr import WalkAttention
    from torchstone.nn.gpt import GPTConfig


def naive_pruned(
    layer: PrunedAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    q, k, v = naive_qkv(layer, x, config)
    learned = None if layer.judge is None else x @ layer.judge.weight.T + layer.judge.bias
    mixed, weights = [], []
    for h in range(layer.num_heads):
        scores = naive_scores(q[h], k[h])
        added = None if learned is None else -torch.log1p(torch.exp(-learned[:, h]))
        seen = _seen(layer, naive_softmax(scores).detach(), k[h].detach(), added)
        rows = []
        for t, row in enumerate(scores):
            if added is not None:
                row = row + added[: t + 1]
            powers = torch.stack([torch.exp(row[s]) * (s in seen[t]) for s in range(t + 1)])
            rows.append(torch.cat([powers / powers.sum(), row.new_zeros(len(x) - t - 1)]))
        weights.append(torch.stack(rows))
        mixed.append(weights[-1] @ v[h])
    return Attended(
        out=naive_join(mixed, sent) @ layer.out.weight.T + layer.out.bias,
        weights=torch.stack(weights).mean(0),
    )


def _seen(
    layer: PrunedAttention, full: Float[Tensor, "T T"], k: Float[Tensor, "T D"], added: Tensor | None
) -> list[set[int]]:
    """The places that each query sees."""
    found: list[set[int]] = []
    alive: set[int] = set()
    for t in range(len(k)):
        alive.add(t)
        recent = {s for s in alive if t - s < layer.recent}
        worth = {}
        for s in alive - recent:
            if layer.importance == "norm":
                worth[s] = float(k[s].norm())
            elif added is not None:
                worth[s] = float(added[s].detach())
            else:
                worth[s] = float(full[s : t + 1, s].sum()) / (t - s + 1)
        best = sorted(worth, key=lambda s: -worth[s])[: layer.keep]
        alive = recent | set(best)
        found.append(set(alive))
    return found


def naive_walk(layer: WalkAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff) -> Attended:
    q, k, v = naive_qkv(layer, x, config)
    T, mixed, weights = len(x), [], []
    for h in range(layer.num_heads):
        near = [row[max(0, t - layer.window) :] for t, row in enumerate(naive_scores(q[h], k[h]))]
        local = torch.zeros(T, T)
        chance = torch.zeros(T, T)
        for t in range(T):
            first = max(0, t - layer.window)
            row = torch.exp(near[t]) / torch.exp(near[t]).sum()
            local = local + _at(row, t, first, T)
            alike = {s: (q[h][t] @ k[h][s]) / (q[h][t].norm() * k[h][s].norm()) for s in range(first, t)}
            chosen = sorted(alike, key=lambda s: -float(alike[s].detach()))[: layer.edges]
            edges = {s: alike[s] for s in chosen if alike[s] > 0} | {t: torch.ones(())}
            total = torch.stack(list(edges.values())).sum()
            for s, weight in edges.items():
                chance = chance + _at((weight / total)[None], t, s, T)
        reached, walked = v[h], torch.zeros_like(v[h])
        for number in range(layer.steps + 1):
            walked = walked + layer.restart * (1 - layer.restart) ** number * reached
            reached = chance @ reached
        mixed.append(local @ v[h] + layer.gamma * walked)
        weights.append(local)
    return Attended(
        out=naive_join(mixed, sent) @ layer.out.weight.T + layer.out.bias,
        weights=torch.stack(weights).mean(0),
    )


def _at(values: Float[Tensor, " n"], row: int, first: int, size: int) -> Float[Tensor, "T T"]:
    """A square of zeros with `values` in `row` from column `first` on."""
    line = torch.cat([values.new_zeros(first), values, values.new_zeros(size - first - len(values))])
    above, below = values.new_zeros(row, size), values.new_zeros(size - row - 1, size)
    return torch.cat([above, line[None], below])
