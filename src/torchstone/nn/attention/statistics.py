"""One number per query and head that says how its attention is spread: topk, max, entropy or rms.

Over the weights p of a row, of which n may be looked at:

    topk     sum of the k largest              max   the largest
    entropy  - sum p log p, in nats            rms   sqrt(sum p^2 / n)

None of them needs all rows at once. Entropy takes one more fused call, of the keys as values, beside the
log-sum-exp L that the kernel of the CPU gives with it: H = L - scale * q . (sum_j p_j k_j). The others (and
the mean of several heads) are taken from some rows of weights at a time, which are computed again for the
backward pass (Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torchstone.nn.attention import fused
from torchstone.nn.attention.context import AttentionContext
from torchstone.nn.attention.scores import Scores, score_flops

if TYPE_CHECKING:
    from jaxtyping import Float

STATISTICS = ("topk", "max", "entropy", "rms")


def row_statistic(
    scores: Scores, context: AttentionContext, name: str, *, topk: int = 8, head_average: bool = False
) -> Float[Tensor, "B H T"]:
    """The statistic `name`; with `head_average` that of the mean over the heads, (B, 1, T)."""
    if name == "entropy" and not head_average:
        return entropy(scores, context)
    return _by_rows(scores, context, partial(_STATISTICS[name], topk=topk), head_average)


def entropy(scores: Scores, context: AttentionContext) -> Float[Tensor, "B H T"]:
    """In nats. Differentiable, although the log-sum-exp of the kernel is not.

    dH = - sum_j s_j dp_j: in the gradient of H, that of the log-sum-exp cancels against that of the scores
    inside the sum. So the scores stand there as constants, and only the weights are differentiated.
    """
    found = []
    for q, k, _, part in scores.parts(context):
        mixed, log_sum = fused.attend_with_log_sum(q, k, k.detach(), part, scale=scores.scale)
        found.append(log_sum.detach() - scores.scale * (q.detach() * mixed).sum(dim=-1))
    return torch.cat(found, dim=2) if len(found) > 1 else found[0]


def statistic_flops(
    tokens: int, width: int, heads: int, window: int | None, name: str, *, head_average: bool
) -> int:
    """Of `row_statistic` over one sequence; `width` counts the extra channels."""
    if name == "entropy" and not head_average:
        return score_flops(tokens, width, width, heads, window)
    return 2 * tokens**2 * width * heads


def _by_rows(
    scores: Scores,
    context: AttentionContext,
    statistic: Callable[[Tensor, Tensor], Tensor],
    head_average: bool,
) -> Float[Tensor, "B H T"]:
    T, S = scores.q.shape[2], scores.k.shape[2]
    counts = fused.visible(T, S, context, scores.q.device).sum(dim=-1)

    def rows(start: int, stop: int) -> Tensor:
        weights = scores.rows(context, start, stop).softmax(dim=-1)
        if head_average:
            weights = weights.mean(dim=1, keepdim=True)
        return statistic(weights, counts[:, :, start:stop])

    found = []
    for start in range(0, T, fused.ROWS):
        stop = min(start + fused.ROWS, T)
        if torch.is_grad_enabled():
            found.append(checkpoint(rows, start, stop, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(rows(start, stop))
    return torch.cat(found, dim=2)


def _topk(weights: Tensor, counts: Tensor, *, topk: int) -> Tensor:
    return weights.topk(min(topk, weights.shape[-1]), dim=-1).values.sum(dim=-1)


def _max(weights: Tensor, counts: Tensor, *, topk: int) -> Tensor:
    return weights.amax(dim=-1)


def _entropy(weights: Tensor, counts: Tensor, *, topk: int) -> Tensor:
    # The clamp keeps the gradient of a weight of 0 finite.
    return -(weights * weights.clamp(min=1e-12).log()).sum(dim=-1)


def _rms(weights: Tensor, counts: Tensor, *, topk: int) -> Tensor:
    return (weights.pow(2).sum(dim=-1) / counts).sqrt()


_STATISTICS = {"topk": _topk, "max": _max, "entropy": _entropy, "rms": _rms}
