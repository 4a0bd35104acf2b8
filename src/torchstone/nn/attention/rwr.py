"""Random walks with restart beside local attention.

    y_i = softmax attention over the last `window` places + gamma * sum_t a (1 - a)^t (P^t v)_i, t = 0..steps

P is a random walk on a graph of the tokens: from i to itself and to the `edges` places of its window whose
keys are most like its query, with the probability of their cosine among them (0 if negative; the own place
has 1). Edges lead back only, so every power of P does, and P^t v is made by gathering: no T x T tensor, no
loop over tokens, and a gradient to queries and keys through the probabilities. Decoding keeps keys and the
P^t v of the window.

After Tong et al. 2006 (ICDM), in the form of mcgrof/AdamWPrune at 6bb4951 (2025-11), whose edges also led
ahead, whose probabilities passed no gradient, and which had variants with P^T; those look ahead by nature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.nn.attention import fused
from torchstone.nn.attention.causal import CausalSelfAttention, causal_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.naive_sparse import naive_walk
from torchstone.nn.attention.near import context_here, last, near_mask
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, near_flops

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from torchstone.nn.gpt import GPTConfig


class WalkAttention(CausalSelfAttention):
    """n counts the places of the window and the queries: those that a query may reach."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        options = config.attention
        self.window, self.edges = options.walk_window, options.edges
        self.steps, self.restart, self.gamma = options.walk_steps, options.restart_probability, options.gamma

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.prepare(x, context)
        num_past = 0 if past is None else past[0].shape[2]
        clock = x.new_empty(x.shape[0], 1, num_past + x.shape[1], 0)
        before = None if past is None else past[1:]
        if before is not None:
            k = torch.cat([before[0], k], dim=2)
            assert all(each.shape[2] == before[0].shape[2] for each in before), [
                each.shape for each in before
            ]
        T, n = q.shape[2], k.shape[2]
        here = context_here(context, T, n)
        near = AttentionContext(mask=near_mask(here, T, n, self.window, x.device), is_causal=False)
        places, chances = self._edges(q, k, near)
        walked: list[Tensor] = []
        mixed = torch.zeros_like(q)
        for number in range(self.steps + 1):
            reached = v if number == 0 else _gather(walked[-1], places, chances)
            if number < self.steps:
                reached = reached if before is None else torch.cat([before[1 + number], reached], dim=2)
                walked.append(reached)
            own = reached[:, :, reached.shape[2] - q.shape[2] :]
            mixed = mixed + self.restart * (1 - self.restart) ** number * own
        scores = Scores(q, k, self.head_width**-0.5)
        dropout = self.dropout if self.training else 0.0
        local = scores.attend_near(walked[0], here, self.window, dropout=dropout)
        weights = None
        if context.keep_weights:
            weights = F.pad(scores.mean_weights(near), (clock.shape[2] - k.shape[2], 0))
        return Attended(
            out=self.residual_dropout(self.finish(local + self.gamma * mixed, x, sent)),
            cache=(clock, *(last(each, self.window) for each in (k, *walked))) if context.keep_cache else (),
            weights=weights,
            looked=Looked(scores, near) if context.keep_scores else None,
        )

    def _edges(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H n D"], near: AttentionContext
    ) -> tuple[Int[Tensor, "B H T e"], Float[Tensor, "B H T e"]]:
        """Where each token walks to, the own place first, and with what probability."""
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        count, n, T = min(self.edges, k.shape[2]), k.shape[2], q.shape[2]
        own = torch.arange(n - T, n, device=q.device)
        assert near.mask is not None
        others = near.mask & (own[:, None] != torch.arange(n, device=q.device))
        chosen = []
        with torch.no_grad():
            for start in range(0, T, fused.ROWS):
                rows = slice(start, start + fused.ROWS)
                alike = (q[:, :, rows] @ k.transpose(-1, -2)).masked_fill(~others[:, :, rows], -1.0)
                chosen.append(alike.topk(count, dim=-1))
        places = torch.cat([each.indices for each in chosen], dim=2)
        # Computed again for the chosen ones, now with a gradient; those that may not be seen weigh nothing.
        alike = torch.einsum("bhtd,bhted->bhte", q, _rows(k, places))
        seen = torch.cat([each.values for each in chosen], dim=2) > 0
        alike = torch.where(seen, alike, torch.zeros_like(alike))
        places = torch.cat([own.expand(*places.shape[:3])[..., None], places], dim=-1)
        alike = torch.cat([torch.ones_like(alike[..., :1]), alike], dim=-1)
        return places, alike / alike.sum(dim=-1, keepdim=True)


def _rows(x: Float[Tensor, "B H n D"], places: Int[Tensor, "B H T e"]) -> Float[Tensor, "B H T e D"]:
    B, H, T, e = places.shape
    index = places.reshape(B, H, T * e, 1).expand(-1, -1, -1, x.shape[-1])
    return x.gather(2, index).view(B, H, T, e, x.shape[-1])


def _gather(
    x: Float[Tensor, "B H n D"], places: Int[Tensor, "B H T e"], chances: Float[Tensor, "B H T e"]
) -> Float[Tensor, "B H T D"]:
    return torch.einsum("bhte,bhted->bhtd", chances, _rows(x, places))


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, options = config.d_model, config.attention
    local = near_flops(tokens, C, options.walk_window)
    choice = 2 * tokens**2 * C
    count = min(options.edges, tokens)
    walks = 2 * tokens * C * (count + options.walk_steps * (count + 1))
    return 8 * tokens * C**2 + local + choice + walks


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    options = config.attention
    return (1 + options.walk_steps) * config.d_model * min(tokens, options.walk_window)


RECORDS = (
    AttentionRecord(
        name="rwr",
        summary="local attention beside random walks with restart over like tokens",
        equation="y_i = sdpa over the window + gamma sum_t a (1 - a)^t (P^t v)_i, P_ij by the cosine of "
        "q_i and k_j",
        source="after Tong et al. 2006; mcgrof/AdamWPrune at 6bb4951 (2025-11), causal and differentiable",
        make=lambda config, layer: WalkAttention(config),
        naive=naive_walk,
        parameters=causal_parameters,
        flops=_flops,
        cache=_cache,
        qk_width=head_width,
    ),
)
