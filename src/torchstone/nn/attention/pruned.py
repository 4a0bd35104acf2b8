"""Attention over a bounded number of places: the most recent ones and the most important of those before.

A query sees the last `recent` places (its own among them), and of the places before those the `keep` most
important. What fell out never comes back, so a cache does not hold it, and decoding equals the full pass.
`importance` says what counts:

    recency    nothing: only the recent places are seen
    norm       the length of the key
    learned    s_j = x_j . w_h + b_h; log sigmoid(s_j) is added to the scores of j, and so w and b learn
    attention  what full attention gave to the place, on the mean since it came (exposure-corrected); for that
               the keys of all places stay, and only values are dropped (v-only)

The published forms that differ in how they renormalise (restricted weights over their sum, a softmax over the
kept scores, a second product with the kept keys) are one function, so there is one here. Which places are
seen is a mask of each head, so T x T tensors are made. mcgrof/AdamWPrune: gpt2/ra.py (2025), whose choices
looked ahead; H2O: Zhang et al. 2023 (arXiv:2306.14048) for `attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.attention import fused
from torchstone.nn.attention.causal import CausalSelfAttention, causal_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
from torchstone.nn.attention.naive_sparse import naive_pruned
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.rotary import rotate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from torchstone.nn.gpt import GPTConfig


class PrunedAttention(CausalSelfAttention):
    """n counts the places that are here: those of the cache that were not dropped, then the queries' own."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config.d_model, config.num_heads, config.dropout)
        options = config.attention
        self.importance, self.recent = options.importance, options.recent
        self.keep = 0 if self.importance == "recency" else options.keep
        self.judge = nn.Linear(config.d_model, config.num_heads) if self.importance == "learned" else None

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.project(x)
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        T, num_past = x.shape[1], 0 if past is None else past[0].shape[2]
        total = num_past + T
        place = torch.arange(num_past, total, device=x.device).expand(*k.shape[:2], -1)
        worth = self._worth(x, k)
        if past is not None:
            assert past[2].shape[2] == past[3].shape[2], (past[2].shape, past[3].shape)
            k, v = torch.cat([past[1], k], dim=2), torch.cat([past[2], v], dim=2)
            place = torch.cat([past[3][..., 0].long(), place], dim=2)
            worth = torch.cat([past[3][..., 1], worth], dim=2)
        allowed = fused.visible(T, total, context, x.device).expand(len(x), self.num_heads, -1, -1)
        seen = allowed.gather(3, place[:, :, None].expand(-1, -1, T, -1))
        back = torch.arange(num_past, total, device=x.device)[:, None] - place[:, :, None]
        if self.importance == "attention":
            kept, worth = self._kept_by_attention(q, k, worth, allowed, seen, place)
            keys = k.gather(2, place[..., None].expand(-1, -1, -1, k.shape[3]))
        else:
            kept, keys = self._kept_by_worth(worth.detach(), seen, back), k
        scores, narrowed = self._scores(q, keys, worth), AttentionContext(mask=kept, is_causal=False)
        mixed = scores.attend(v, narrowed, dropout=self.dropout if self.training else 0.0)
        cache: Cache = ()
        if context.keep_cache:
            stay = self._staying(worth.detach(), place, seen[:, :, -1], kept[:, :, -1], total)
            info = torch.stack([place.float(), worth.detach().float()], dim=-1)
            kept_keys = k if self.importance == "attention" else _take(k, stay)
            cache = (x.new_empty(len(x), 1, total, 0), kept_keys, _take(v, stay), _take(info, stay))
        return Attended(
            out=self.residual_dropout(self.finish(mixed, x, sent)),
            cache=cache,
            weights=_spread(scores, narrowed, place, total) if context.keep_weights else None,
        )

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

    @torch.no_grad()
    def _kept_by_worth(
        self,
        worth: Float[Tensor, "B H n"],
        seen: Bool[Tensor, "B H T n"],
        back: Int[Tensor, "B H T n"],
    ) -> Bool[Tensor, "B H T n"]:
        """What each query sees, where the importance of a place does not change."""
        kept = seen & (back < self.recent)
        old = seen & (back >= self.recent)
        if self.keep and bool(old.shape[-1]):
            found = worth[:, :, None].masked_fill(~old, float("-inf")).topk(min(self.keep, old.shape[-1]))
            kept |= torch.zeros_like(old).scatter(3, found.indices, found.values > float("-inf"))
        return kept

    @torch.no_grad()
    def _kept_by_attention(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H S D"],
        worth: Float[Tensor, "B H n"],
        allowed: Bool[Tensor, "B H T S"],
        seen: Bool[Tensor, "B H T n"],
        place: Int[Tensor, "B H n"],
    ) -> tuple[Bool[Tensor, "B H T n"], Float[Tensor, "B H n"]]:
        """The same where every query adds to it; `worth` is the sum of what a place was given so far."""
        full = Scores(q, k, self.head_width**-0.5)
        first, alive, rows = k.shape[2] - q.shape[2], torch.ones_like(seen[:, :, 0]), []
        for start in range(0, q.shape[2], fused.ROWS):
            stop = min(start + fused.ROWS, q.shape[2])
            context = AttentionContext(mask=allowed, is_causal=False)
            given = full.rows(context, start, stop).softmax(dim=-1).float()
            for t in range(start, stop):
                worth = worth + given[:, :, t - start].gather(2, place)
                back = first + t - place
                old = alive & seen[:, :, t] & (back >= self.recent)
                best = (
                    (worth / (back + 1).clamp(min=1))
                    .masked_fill(~old, float("-inf"))
                    .topk(min(self.keep, old.shape[-1]))
                )
                chosen = torch.zeros_like(old).scatter(2, best.indices, best.values > float("-inf"))
                alive = alive & (chosen | (back < self.recent))
                rows.append(alive & seen[:, :, t])
        return torch.stack(rows, dim=2), worth

    def _staying(
        self,
        worth: Float[Tensor, "B H n"],
        place: Int[Tensor, "B H n"],
        real: Bool[Tensor, "B H n"],
        kept: Bool[Tensor, "B H n"],
        total: int,
    ) -> Int[Tensor, "B H m"]:
        """Which of the places here the tokens to come may see, in order; the same number for each head."""
        count = min(worth.shape[2], self.keep + self.recent)
        if self.importance == "attention":
            # The recent ones, then those that the last query kept; what it dropped is dropped for good.
            worth = kept.float()
        worth = worth.masked_fill(~real, float("-inf"))
        worth = worth.masked_fill(place >= total - self.recent, float("inf"))
        return worth.topk(count).indices.sort(dim=-1).values


def _take(x: Float[Tensor, "B H n D"], stay: Int[Tensor, "B H m"]) -> Float[Tensor, "B H m D"]:
    return x.gather(2, stay[..., None].expand(-1, -1, -1, x.shape[3]))


@torch.no_grad()
def _spread(
    scores: Scores, context: AttentionContext, place: Int[Tensor, "B H n"], total: int
) -> Float[Tensor, "B T S"]:
    """Mean weights over all places, those that were dropped included."""
    T = scores.q.shape[2]
    weights = scores.rows(context, 0, T).softmax(dim=-1)
    wide = weights.new_zeros(*weights.shape[:3], total)
    return wide.scatter(3, place[:, :, None].expand(-1, -1, T, -1), weights).mean(dim=1)


def _parameters(config: GPTConfig, layer: int) -> int:
    judge = (config.d_model + 1) * config.num_heads if config.attention.importance == "learned" else 0
    return causal_parameters(config, layer) + judge


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, H, importance = config.d_model, config.num_heads, config.attention.importance
    D = C // H
    found = 8 * tokens * C**2 + score_flops(tokens, D + (importance == "learned"), D, H)
    if importance == "learned":
        found += 2 * tokens * C * H
    return found + (2 * tokens**2 * C if importance == "attention" else 0)


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    C, H, options = config.d_model, config.num_heads, config.attention
    keep = 0 if options.importance == "recency" else options.keep
    stay = min(tokens, keep + options.recent)
    keys = tokens if options.importance == "attention" else stay
    return C * keys + C * stay + 2 * H * stay


RECORDS = (
    AttentionRecord(
        name="kv-pruned",
        summary="attention over the recent places and the most important ones before, the rest dropped",
        source="mcgrof/AdamWPrune: gpt2/ra.py (2025), causal; H2O: arXiv:2306.14048",
        make=lambda config, layer: PrunedAttention(config),
        naive=naive_pruned,
        parameters=_parameters,
        flops=_flops,
        cache=_cache,
        score_width=lambda config: head_width(config) + (config.attention.importance == "learned"),
        materialises=lambda config: True,
    ),
)
