"""Attention over a bounded number of places: the most recent ones and the most important of those before.

A query sees the last `recent` places (its own among them), and of the places before those the most important,
as many as its head's budget (`budget.py`; `keep` at most). What fell out never comes back, so a cache does
not hold it, and decoding equals the full pass. `importance` says what counts:

    attention  what the place was given, on the mean since it came (exposure-corrected)
    norm       the length of the key
    learned    s_j = x_j . w_h + b_h; log sigmoid(s_j) is added to the scores of j, and so w and b learn
    recency    nothing: only the recent places are seen (`recent.py`)

For `attention`, `drop` says what is dropped. `values` (v-only): the keys of all places stay, and what full
attention gives decides. `keys-values` (reused scores): the scores of the places that are still here decide,
and weigh their values too. The published forms that differ in how they renormalise (restricted weights over
their sum, a softmax over the kept scores, a second product with the kept keys) are one function, so there is
one.

Which places are seen differs from head to head, so T x T tensors are made. mcgrof/AdamWPrune: gpt2/ra.py
(2025), whose choices looked ahead; reused scores are H2O: Zhang et al. 2023 (arXiv:2306.14048).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.attention import fused
from torchstone.nn.attention.budget import Budget
from torchstone.nn.attention.causal import CausalSelfAttention, causal_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.importance import Chosen, by_attention, by_worth, of_places
from torchstone.nn.attention.naive_sparse import naive_pruned
from torchstone.nn.attention.recent import RecentAttention
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, near_flops, score_flops

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from torchstone.nn.gpt import GPTConfig


class PrunedAttention(CausalSelfAttention):
    """n counts the places that are here: those of the cache that were not dropped, then the queries' own."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        options = config.attention
        self.importance, self.recent = options.importance, options.recent
        self.keeps_keys = self.importance == "attention" and options.drop == "values"
        self.budget = Budget(config)
        self.judge = nn.Linear(config.d_model, config.num_heads) if self.importance == "learned" else None

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.prepare(x, context)
        T, num_past = x.shape[1], 0 if past is None else past[0].shape[2]
        total = num_past + T
        place = torch.arange(num_past, total, device=x.device).expand(*k.shape[:2], -1)
        worth = self._worth(x, k)
        if past is not None:
            assert past[2].shape[2] == past[3].shape[2], (past[2].shape, past[3].shape)
            k, v = torch.cat([past[1], k], dim=2), torch.cat([past[2], v], dim=2)
            place = torch.cat([past[3][..., 0].long(), place], dim=2)
            worth = torch.cat([past[3][..., 1], worth], dim=2)
        budget = self.budget(sent)
        of_ranks = self.budget.of_ranks(budget, x.device)
        allowed = fused.visible(T, total, context, x.device).expand(len(x), self.num_heads, -1, -1)
        chosen, worth = self._choose(q, k, worth, place, allowed, of_ranks)
        shares = chosen.shares(of_ranks)
        keys = k.gather(2, place[..., None].expand(-1, -1, -1, k.shape[3])) if self.keeps_keys else k
        scores, kept = self._scores(q, keys, worth), shares.detach() > 0
        if budget is None:
            narrowed = AttentionContext(mask=kept, is_causal=False)
            mixed = scores.attend(v, narrowed, dropout=self.dropout if self.training else 0.0)
        else:
            weights = F.dropout(_weights(scores, kept, shares).to(v.dtype), self.dropout, self.training)
            mixed = weights @ v
        return Attended(
            out=self.residual_dropout(self.finish(mixed, x, sent)),
            cache=self._cached(k, v, worth.detach(), place, kept[:, :, -1], total, self._most(budget, past))
            if context.keep_cache
            else (),
            weights=_spread(scores, kept, shares, place, total) if context.keep_weights else None,
            looked=Looked(scores, AttentionContext(mask=kept, is_causal=False), shares)
            if context.keep_scores
            else None,
        )

    def _most(self, budget: Float[Tensor, "#H"] | None, past: Cache | None) -> int:
        """Places to keep beside the recent ones. A learned number is read from the device once per sequence:
        the first tensor of the cache, which is empty, is as high as that."""
        return self.budget.most(budget) if past is None else past[0].shape[1]

    def _worth(self, x: Float[Tensor, "B T C"], k: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T"]:
        """The importance of the places of the queries, as far as it is known when they come."""
        if self.judge is not None:
            return F.logsigmoid(self.judge(x).float()).transpose(1, 2)
        return (
            k.detach().float().norm(dim=-1) if self.importance == "norm" else k.new_zeros(k.shape[:3]).float()
        )

    def _scores(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H n D"], worth: Float[Tensor, "B H n"]
    ) -> Scores:
        scale = self.head_width**-0.5
        if self.judge is None:
            return Scores(q, k, scale)
        ones = torch.full_like(q[..., :1], 1 / scale)
        return Scores(q, k, scale, ones, worth[..., None].to(q.dtype))

    def _choose(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H S D"],
        worth: Float[Tensor, "B H n"],
        place: Int[Tensor, "B H n"],
        allowed: Bool[Tensor, "B H T S"],
        of_ranks: Float[Tensor, "#H r"],
    ) -> tuple[Chosen, Float[Tensor, "B H n"]]:
        """What each query sees, and what is known of the places' importance after the last one."""
        if self.importance == "attention":
            scores = Scores(q, k, self.head_width**-0.5)
            return by_attention(scores, worth, allowed, place, self.recent, of_ranks, whole=self.keeps_keys)
        T, S = allowed.shape[2:]
        back = torch.arange(S - T, S, device=q.device)[:, None] - place[:, :, None]
        chosen = by_worth(worth.detach(), of_places(allowed, place), back, self.recent, of_ranks.shape[1])
        return chosen, worth

    def _cached(
        self,
        k: Float[Tensor, "B H S D"],
        v: Float[Tensor, "B H n D"],
        worth: Float[Tensor, "B H n"],
        place: Int[Tensor, "B H n"],
        kept: Bool[Tensor, "B H n"],
        total: int,
        most: int,
    ) -> Cache:
        """Of the places here those that the tokens to come may see, in order; the same number for each head.

        `kept` is what the last query saw; what it did not is gone, or, where importance does not change,
        worth less than what it saw.
        """
        is_recent = place >= total - self.recent
        first = torch.where(is_recent, 2, torch.where(kept, 1, 0))
        count = min(place.shape[2], most + self.recent)
        stay = first.topk(count).indices.sort(dim=-1).values
        info = torch.stack([place.float(), worth.float()], dim=-1)
        clock = k.new_empty(len(k), most, total, 0)
        return clock, k if self.keeps_keys else _take(k, stay), _take(v, stay), _take(info, stay)


def _take(x: Float[Tensor, "B H n D"], stay: Int[Tensor, "B H m"]) -> Float[Tensor, "B H m D"]:
    return x.gather(2, stay[..., None].expand(-1, -1, -1, x.shape[3]))


def _weights(
    scores: Scores, kept: Bool[Tensor, "B H T n"], shares: Float[Tensor, "B H T n"]
) -> Float[Tensor, "B H T n"]:
    """The weights of the places that are kept, each by its share, of sum 1."""
    context = AttentionContext(mask=kept, is_causal=False)
    weights = shares * scores.rows(context, 0, scores.q.shape[2]).softmax(dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True)


@torch.no_grad()
def _spread(
    scores: Scores,
    kept: Bool[Tensor, "B H T n"],
    shares: Float[Tensor, "B H T n"],
    place: Int[Tensor, "B H n"],
    total: int,
) -> Float[Tensor, "B T S"]:
    """Mean weights over all places, those that were dropped included."""
    T, weights = scores.q.shape[2], _weights(scores, kept, shares)
    wide = weights.new_zeros(*weights.shape[:3], total)
    return wide.scatter(3, place[:, :, None].expand(-1, -1, T, -1), weights).mean(dim=1)


def _is_recency(config: GPTConfig) -> bool:
    return config.attention.importance == "recency"


def _make(config: GPTConfig, layer: int) -> CausalSelfAttention:
    return RecentAttention(config) if _is_recency(config) else PrunedAttention(config)


def _parameters(config: GPTConfig, layer: int) -> int:
    options, H = config.attention, config.num_heads
    found = causal_parameters(config, layer)
    if _is_recency(config):
        return found
    found += (config.d_model + 1) * H if options.importance == "learned" else 0
    return found + (H if options.budget == "learned" else 0)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, H, options = config.d_model, config.num_heads, config.attention
    if _is_recency(config):
        return 8 * tokens * C**2 + near_flops(tokens, C, options.recent - 1)
    D, is_judged = C // H, options.importance == "learned"
    if options.budget == "fixed":
        mixing = score_flops(tokens, D + is_judged, D, H)
    else:  # the weights are written out
        mixing = 2 * tokens**2 * H * (2 * D + is_judged)
    found = 8 * tokens * C**2 + mixing + (2 * tokens * C * H if is_judged else 0)
    return found + (2 * tokens**2 * C if options.importance == "attention" else 0)


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    C, H, options = config.d_model, config.num_heads, config.attention
    if _is_recency(config):
        return 2 * C * min(tokens, options.recent - 1)
    stay = min(tokens, options.keep + options.recent)
    keys = tokens if options.importance == "attention" and options.drop == "values" else stay
    return C * keys + C * stay + 2 * H * stay


RECORDS = (
    AttentionRecord(
        name="kv-pruned",
        summary="attention over the recent places and the most important ones before, the rest dropped",
        equation="sdpa over the recent places and those of rank r < k_h before, each by the share min(1, "
        "k_h - r)",
        source="mcgrof/AdamWPrune: gpt2/ra.py (2025), causal; H2O: arXiv:2306.14048",
        make=_make,
        naive=naive_pruned,
        parameters=_parameters,
        flops=_flops,
        cache=_cache,
        cache_is_limit=lambda config: not _is_recency(config) and config.attention.budget != "fixed",
        score_width=lambda config: head_width(config) + (config.attention.importance == "learned"),
        materialises=lambda config: not _is_recency(config),
        hears_confidence=lambda config: (
            not _is_recency(config) and config.attention.budget == "gate-informed"
        ),
        qk_width=head_width,
    ),
)
