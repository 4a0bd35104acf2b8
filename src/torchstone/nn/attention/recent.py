"""Attention over the last places only (`kv-pruned` with `importance=recency`): a sliding window.

No T x T tensor is made, and the cache holds what the next token sees beside itself. Beltagy et al. 2020
(arXiv:2004.05150) for the window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.nn.attention.causal import CausalSelfAttention
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
from torchstone.nn.attention.near import context_here, last, near_mask
from torchstone.nn.attention.scores import Scores

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class RecentAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.recent = config.attention.recent

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.prepare(x, context)
        total = x.shape[1] + (0 if past is None else past[0].shape[2])
        if past is not None:
            k, v = torch.cat([past[1], k], dim=2), torch.cat([past[2], v], dim=2)
        T, n, window = q.shape[2], k.shape[2], self.recent - 1
        here, scores = context_here(context, T, n), Scores(q, k, self.head_width**-0.5)
        mixed = scores.attend_near(v, here, window, dropout=self.dropout if self.training else 0.0)
        weights = None
        if context.keep_weights:
            near = AttentionContext(mask=near_mask(here, T, n, window, x.device), is_causal=False)
            weights = F.pad(scores.mean_weights(near), (total - n, 0))
        clock = x.new_empty(len(x), 1, total, 0)
        return Attended(
            out=self.residual_dropout(self.finish(mixed, x, sent)),
            cache=(clock, last(k, window), last(v, window)) if context.keep_cache else (),
            weights=weights,
        )
