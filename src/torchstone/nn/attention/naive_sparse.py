"""The slow twins of attention that sees a part of the places, and of walks over them.

As in `naive.py`: the module, one sequence x (T, C), the configuration, what was sent -> what it must give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.attention.naive import Rows
from torchstone.nn.naive import naive_join, naive_linear, naive_qkv, naive_scores

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.attention.pruned import PrunedAttention
    from torchstone.nn.attention.recent import RecentAttention
    from torchstone.nn.attention.rwr import WalkAttention
    from torchstone.nn.config import AttentionConfig
    from torchstone.nn.gpt import GPTConfig


def naive_pruned(
    layer: PrunedAttention | RecentAttention, x: Float[Tensor, "T C"], config: GPTConfig, sent: Handoff
) -> Attended:
    options = config.attention
    q, k, v = naive_qkv(layer, x, config)
    weights = []
    for h in range(layer.num_heads):
        scores = naive_scores(q[h], k[h])
        fixed = added = None
        if options.importance == "norm":
            fixed = [float(each.norm()) for each in k[h].detach()]
        if options.importance == "learned":
            assert isinstance(layer.judge, nn.Linear)
            judged = x @ layer.judge.weight[h] + layer.judge.bias[h]
            added = -torch.log1p(torch.exp(-judged))
            fixed = added.tolist()
            scores = [row + added[: len(row)] for row in scores]
        weights.append(_pruned_weights(scores, fixed, _budget(layer, h, config, sent), options))
    mixed = [weights[h] @ v[h] for h in range(layer.num_heads)]
    return Attended(
        out=naive_linear(layer.out, naive_join(mixed, sent)),
        weights=torch.stack(weights).mean(0),
    )


def _pruned_weights(
    scores: Rows, fixed: list[float] | None, budget: Tensor, options: AttentionConfig
) -> Float[Tensor, "T T"]:
    """`fixed` is the importance of each place, or None where what it was given decides."""
    rows, alive, given = [], set[int](), [0.0] * len(scores)
    for t, row in enumerate(scores):
        alive.add(t)
        powers = torch.exp(row)
        if fixed is None:
            counted = range(t + 1) if options.drop == "values" else alive
            total = sum(float(powers[s].detach()) for s in counted)
            for s in counted:
                given[s] += float(powers[s].detach()) / total
        worth = fixed or [sum_ / (t - s + 1) for s, sum_ in enumerate(given[: t + 1])]
        recent = {s for s in alive if t - s < options.recent}
        ranked = sorted(alive - recent, key=lambda s, worth=worth: -worth[s])  # type: ignore[misc]
        shares = {s: (budget - rank).clamp(0, 1) for rank, s in enumerate(ranked)}
        shares |= {s: torch.ones(()) for s in recent}
        alive = {s for s in alive if shares[s] > 0}
        kept = torch.stack([powers[s] * shares.get(s, torch.zeros(())) for s in range(t + 1)])
        rows.append(torch.cat([kept / kept.sum(), row.new_zeros(len(scores) - t - 1)]))
    return torch.stack(rows)


def _budget(
    layer: PrunedAttention | RecentAttention, head: int, config: GPTConfig, sent: Handoff
) -> Float[Tensor, ""]:
    options = config.attention
    if options.importance == "recency":
        return torch.zeros(())
    whole = torch.tensor(float(options.keep))
    if options.budget == "learned":
        logit = layer.get_parameter("budget.logit")
        return whole / (1 + torch.exp(-logit[head]))
    if options.budget == "gate-informed" and sent.confidence is not None:
        heard = torch.relu(sent.confidence)
        return whole * torch.maximum(1 / (1 + options.beta * heard), torch.tensor(0.1))
    return whole


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
        out=naive_linear(layer.out, naive_join(mixed, sent)),
        weights=torch.stack(weights).mean(0),
    )


def _at(values: Float[Tensor, " n"], row: int, first: int, size: int) -> Float[Tensor, "T T"]:
    """A square of zeros with `values` in `row` from column `first` on."""
    line = torch.cat([values.new_zeros(first), values, values.new_zeros(size - first - len(values))])
    above, below = values.new_zeros(row, size), values.new_zeros(size - row - 1, size)
    return torch.cat([above, line[None], below])
