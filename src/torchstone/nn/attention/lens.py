"""Lens gates: three views of a pair (score, reciprocal score, how discoverable the key is), weighed per head.

    S_ij = w_1 q_i . k_j / sqrt(D) + w_2 k_i . q_j / sqrt(D) + w_3 k_j . u_h,   (w_1, w_2, w_3) = softmax(g_h)

g_h begins at (2.2, .6, .1), u_h small. All three are products, so extra channels carry them and one fused
call of width 2D + 1 computes the whole. The original took the mean over all keys off k_j . u_h; what is the
same for all keys of a row does nothing to its softmax, and later keys must not be known, so it is left out.

`compress` makes keys and values from narrow latents, begun as the best approximation of full projections,
and caches the latents. `route` lets the attention decide how it shares the residual stream with the MLP: its
branch is scaled by g = sigmoid(r + bias), the MLP's by 1 - g; r is 2.2 at first and the bias falls from 0 to
-3.2 between the optimizer steps `route_start` and `route_stop`. Its MLP is
`nn/mlp/lens_context.py`. mcgrof/AdamWPrune at 6bb4951 (2025-11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.causal import CausalSelfAttention, causal_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.heads import split_heads
from torchstone.nn.attention.naive_heads import naive_lens
from torchstone.nn.attention.record import AttentionRecord, head_width
from torchstone.nn.attention.scores import Scores, score_flops
from torchstone.nn.gates import Gates

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig

START = {"score": 2.2, "reciprocity": 0.6, "discoverability": 0.1}
LAST_BIAS = -3.2


class Route(Gates, nn.Module):
    """The share of attention in the residual stream; the MLP has the rest."""

    bias: Tensor

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        if start >= stop:
            raise ConfigError(
                f"model.attention.route_stop={stop} is not behind model.attention.route_start={start}"
            )
        self.start, self.stop = start, stop
        self.logit = nn.Parameter(torch.tensor(2.2))
        self.register_buffer("bias", torch.zeros(()))

    def at_step(self, step: int) -> None:
        part = (step - self.start) / (self.stop - self.start)
        self.bias.fill_(LAST_BIAS * min(1.0, max(0.0, part)))

    def forward(self) -> Float[Tensor, ""]:
        return torch.sigmoid(self.logit + self.bias)

    def gates(self) -> dict[str, Tensor]:
        return {"share": self()}


class LowRank(nn.Module):
    """A projection through `rank` channels, begun as the best approximation of a full one."""

    def __init__(self, width: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=bias)

    @torch.no_grad()
    def initialise(self) -> None:
        if self.up.weight.is_meta:
            return
        full = torch.empty(self.up.out_features, self.down.in_features, device=self.up.weight.device)
        left, sizes, right = torch.linalg.svd(nn.init.normal_(full, std=0.02), full_matrices=False)
        root = sizes[: self.down.out_features].sqrt()
        self.up.weight.copy_(left[:, : len(root)] * root)
        self.down.weight.copy_(root[:, None] * right[: len(root)])


class LensAttention(Gates, CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        options, C = config.attention, config.d_model
        self.views = views(options.lens)
        self.logits = nn.Parameter(torch.tensor([[START[each] for each in self.views]] * config.num_heads))
        self.wanted = None
        if "discoverability" in self.views:
            self.wanted = nn.Parameter(torch.empty(config.num_heads, self.head_width))
        self.route = Route(options.route_start, options.route_stop) if options.route else None
        self.key = self.value = None
        if options.compress is not None:
            if options.compress > C:
                raise ConfigError(f"model.attention.compress={options.compress} is more than d_model={C}")
            del self.qkv
            self.query = nn.Linear(C, C, bias=config.bias)
            self.key, self.value = (LowRank(C, options.compress, config.bias) for _ in range(2))
        self.initialise()

    def initialise(self) -> None:
        nn.init.constant_(self.logits, 0.0)
        with torch.no_grad():
            self.logits.add_(torch.tensor([START[each] for each in self.views], device=self.logits.device))
        if self.wanted is not None:
            nn.init.normal_(self.wanted, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        if self.key is None or self.value is None:
            found = super().forward(x, context, sent, past)
        else:
            found = self._compressed(x, context, sent, past)
        if self.route is None:
            return found
        share = self.route()
        return found._replace(out=share * found.out, mlp_share=1 - share)

    def scores(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], past: Cache | None
    ) -> tuple[Scores, Cache]:
        scale = self.head_width**-0.5
        weight = {view: each[:, None, None] for view, each in self.gates().items()}
        own: list[Tensor] = []
        of_keys: list[Tensor] = []
        kept: Cache = ()
        if "reciprocity" in weight:
            queries = q if past is None else torch.cat([past[0], q], dim=2)
            own.append(weight["reciprocity"] * k[:, :, k.shape[2] - q.shape[2] :])
            of_keys.append(queries)
            kept = (queries,)
        if self.wanted is not None:
            own.append((weight["discoverability"] / scale).expand(q.shape[0], -1, q.shape[2], -1))
            of_keys.append(k @ self.wanted[:, :, None])
        return (
            Scores(weight["score"] * q, k, scale, torch.cat(own, dim=-1), torch.cat(of_keys, dim=-1)),
            kept,
        )

    def gates(self) -> dict[str, Tensor]:
        """The share of each view in the scores of each head."""
        return dict(zip(self.views, self.logits.softmax(dim=-1).unbind(-1), strict=True))

    def _compressed(
        self, x: Float[Tensor, "B T C"], context: AttentionContext, sent: Handoff, past: Cache | None
    ) -> Attended:
        assert self.key is not None and self.value is not None
        keys, values = self.key.down(x)[:, None], self.value.down(x)[:, None]
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        k = split_heads(self.key.up(keys[:, 0]), self.num_heads)
        v = split_heads(self.value.up(values[:, 0]), self.num_heads)
        q = split_heads(self.query(x), self.num_heads)
        scores, kept = self.scores(q, k, None if past is None else past[2:])
        mixed, scores = self.mix(scores, v, context)
        return Attended(
            out=self.residual_dropout(self.finish(mixed, x, sent)),
            cache=(keys, values, *kept) if context.keep_cache else (),
            weights=scores.mean_weights(context) if context.keep_weights else None,
            looked=Looked(scores, context) if context.keep_scores else None,
        )


def views(lens: str) -> tuple[str, ...]:
    return ("score", "reciprocity", "discoverability") if lens == "both" else ("score", lens)


def _parameters(config: GPTConfig, layer: int) -> int:
    C, H, options = config.d_model, config.num_heads, config.attention
    found = causal_parameters(config, layer) + len(views(options.lens)) * H + options.route
    found += C if "discoverability" in views(options.lens) else 0
    if options.compress is not None:
        found += 2 * (2 * C * options.compress) - 2 * C**2
    return found


def _score_width(config: GPTConfig) -> int:
    D, chosen = config.d_model // config.num_heads, views(config.attention.lens)
    return D + (D if "reciprocity" in chosen else 0) + (1 if "discoverability" in chosen else 0)


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    C, H, options = config.d_model, config.num_heads, config.attention
    keys_values = 2 * C**2 if options.compress is None else 4 * C * options.compress
    chosen = views(options.lens)
    found = 2 * tokens * (2 * C**2 + keys_values) + score_flops(tokens, _score_width(config), C // H, H)
    return found + (2 * tokens * C if "discoverability" in chosen else 0)


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    options = config.attention
    keys_values = 2 * (config.d_model if options.compress is None else options.compress)
    queries = config.d_model if "reciprocity" in views(options.lens) else 0
    return (keys_values + queries) * tokens


def _rotary_width(config: GPTConfig) -> int | None:
    # Keys made again from cached latents would need the positions of all tokens.
    return head_width(config) if config.attention.compress is None else None


RECORDS = (
    AttentionRecord(
        name="lens",
        summary="score, reciprocal score and discoverability of the key, weighed per head",
        equation="S_ij = w_1 q_i . k_j / sqrt(D) + w_2 k_i . q_j / sqrt(D) + w_3 k_j . u_h, w = softmax(g_h)",
        source="mcgrof/AdamWPrune at 6bb4951 (2025-11), causal",
        make=lambda config, layer: LensAttention(config),
        naive=naive_lens,
        parameters=_parameters,
        flops=_flops,
        cache=_cache,
        score_width=_score_width,
        rotary_width=_rotary_width,
        gives_share=lambda config: config.attention.route,
        qk_width=_rotary_width,
    ),
)
