"""Reciprocal MLP: the MLP hears the attention of its block and answers to that of the next one.

    h = act(W_fc x + b)                                              M channels, act is `model.activation`
    latent     h <- h + a W_in sg(z)               and sends  a W_out h,  added to the next block's latent
    tokens     h_t <- h_t + a W_up sum_s w_ts W_down h_s             through a bottleneck of R channels
    gate       sends 1 - a + a sigmoid(W_2 (W_1 h + b_1) + b_2),     a factor on each head of the next block
    out        W_proj h + c

in this order, each part with its own a and each one switchable. z is the latent of the keys of this block's
attention, w the mean over heads of its weights, both without gradient; of each row of w only the `topk`
largest stay, or those of at least `rms_threshold` times the row's root mean square, and what stays sums to 1.
The gate is of the token, or of the mean over the tokens so far. Nothing later is seen. The last block sends
nothing, for there is nobody to hear it.

mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025), as its text defines it. Its code took the gate's mean over all
tokens, later ones too, mixed tokens by an M x M matrix instead of the bottleneck, and handed gate and latent
to the same block's next call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention import fused
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff
from torchstone.nn.gates import Gates
from torchstone.nn.mlp.activation import activate
from torchstone.nn.mlp.dense import DenseMLP, dense_flops, dense_parameters
from torchstone.nn.mlp.naive import naive_reciprocal
from torchstone.nn.mlp.record import Grown, MLPRecord

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.config import MLPConfig
    from torchstone.nn.gpt import GPTConfig


class AttentionGate(Gates, nn.Module):
    """Factor on each head of the next block; begins at 1 - strength / 8 or so."""

    def __init__(self, width: int, num_heads: int, options: MLPConfig) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, options.gate_width)
        self.judge = nn.Linear(options.gate_width, num_heads)
        self.strength = options.gate_strength
        self.takes_mean = options.attention_gate == "running-mean"
        self.initialise()

    def initialise(self) -> None:
        nn.init.constant_(self.judge.bias, 2.0)

    def forward(
        self, h: Float[Tensor, "B T M"], context: AttentionContext, past: Cache
    ) -> tuple[Float[Tensor, "B H T"], Cache]:
        """The second result is what decoding keeps: H numbers per token, for the mean of what a linear map
        makes is what it makes of the mean."""
        judged: Tensor = self.judge(self.narrow(h))
        kept: Cache = ()
        if self.takes_mean:
            own = judged[:, None]
            every = torch.cat([past[0], own], dim=2) if past else own
            kept, judged = (every,), _mean_so_far(every[:, 0], h.shape[1], context)
        return self._factor(judged).transpose(1, 2), kept

    def _factor(self, judged: Tensor) -> Tensor:
        return 1 - self.strength + self.strength * torch.sigmoid(judged)

    def gates(self) -> dict[str, Tensor]:
        """The factor where the token has nothing to say: the rest depends on the token."""
        return {"at-rest": self._factor(self.judge.bias)}


def _mean_so_far(
    every: Float[Tensor, "B S H"], num_queries: int, context: AttentionContext
) -> Float[Tensor, "B T H"]:
    """For each of the last T places the mean over those that it may see."""
    if context.mask is not None:
        shown = context.mask[:, 0].float()
        return ((shown / shown.sum(dim=-1, keepdim=True)) @ every.float()).to(every.dtype)
    counts = torch.arange(1, every.shape[1] + 1, device=every.device)[:, None]
    means = every.cumsum(dim=1, dtype=torch.float32) / counts
    return means[:, every.shape[1] - num_queries :].to(every.dtype)


class TokenMixer(nn.Module):
    """Channels of the tokens that the attention looked at, through a bottleneck."""

    def __init__(self, width: int, options: MLPConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, options.bottleneck, bias=False)
        self.up = nn.Linear(options.bottleneck, width, bias=False)
        self.options = options

    def forward(
        self,
        h: Float[Tensor, "B T M"],
        weights: Float[Tensor, "B T S"],
        context: AttentionContext,
        past: Cache,
    ) -> tuple[Float[Tensor, "B T M"], Cache]:
        """What is added to `h`, and what decoding keeps: R numbers per token."""
        own = self.down(h)[:, None]
        every = torch.cat([past[0], own], dim=2) if past else own
        assert weights.shape[2] == every.shape[2], (weights.shape, every.shape)
        mixed = self.sparse(weights.detach(), context).to(h.dtype) @ every[:, 0]
        return self.options.cross_strength * self.up(mixed), (every,)

    def sparse(self, weights: Float[Tensor, "B T S"], context: AttentionContext) -> Float[Tensor, "B T S"]:
        options, (_, T, S) = self.options, weights.shape
        if options.sparsify == "none":
            return weights
        if options.sparsify == "topk":
            best = weights.topk(min(options.topk, S), dim=-1)
            stay = torch.zeros_like(weights).scatter(2, best.indices, best.values)
        else:
            counts = fused.visible(T, S, context, weights.device)[:, 0].sum(dim=-1, keepdim=True)
            rms = (weights.float().pow(2).sum(dim=-1, keepdim=True) / counts).sqrt()
            stay = weights.masked_fill(weights < options.rms_threshold * rms, 0.0)
        return stay / stay.sum(dim=-1, keepdim=True)


class LatentExchange(Gates, nn.Module):
    """Reads the latent of this block's attention, and writes what is added to that of the next one.

    `untied`: a map for each way. `tied_transpose`: one map, and its transpose back. `per_head_scalar`: a map
    for each way, and each head's share of the channels of h weighed by one learned number, 1 at first.
    """

    def __init__(self, width: int, latent: int, num_heads: int, options: MLPConfig, *, is_last: bool) -> None:
        super().__init__()
        self.strength = options.latent_strength
        self.is_last = is_last
        tied, scaled = options.tying == "tied_transpose", options.tying == "per_head_scalar"
        self.read = nn.Linear(latent, width, bias=False)
        self.write = None if tied or is_last else nn.Linear(width, latent, bias=False)
        self.read_scale = nn.Parameter(torch.ones(num_heads)) if scaled else None
        self.write_scale = nn.Parameter(torch.ones(num_heads)) if scaled and not is_last else None

    def heard(self, latent: Float[Tensor, "B T L"]) -> Float[Tensor, "B T M"]:
        return self.strength * _weighed(self.read(latent.detach()), self.read_scale)

    def told(self, h: Float[Tensor, "B T M"]) -> Float[Tensor, "B T L"] | None:
        if self.is_last:
            return None
        weight = self.read.weight.T if self.write is None else self.write.weight
        return self.strength * F.linear(_weighed(h, self.write_scale), weight)

    def gates(self) -> dict[str, Tensor]:
        both = {"read": self.read_scale, "write": self.write_scale}
        return {name: each for name, each in both.items() if each is not None}


def _weighed(h: Float[Tensor, "B T M"], scales: Float[Tensor, " H"] | None) -> Float[Tensor, "B T M"]:
    """Each channel times the number of its head: heads take neighbouring channels, as equally as can be."""
    if scales is None:
        return h
    M = h.shape[-1]
    return h * scales[torch.arange(M, device=h.device) * len(scales) // M]


class ReciprocalMLP(DenseMLP):
    """A part that is None was switched off, or has nobody to hear it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        options, M = config.mlp, config.hidden_width
        super().__init__(config)
        _require_a_part(config)
        latent = config.mechanisms[0].latent_width(config) if options.latent_context else None
        self.exchange = (
            None
            if latent is None
            else LatentExchange(M, latent, config.num_heads, options, is_last=not _sends(config, layer))
        )
        self.mixer = TokenMixer(M, options) if options.cross_token else None
        self.gate = AttentionGate(M, config.num_heads, options) if _has_gate(config, layer) else None

    def forward(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown:
        h = activate(self.activation, self.widen(x))
        latent, factor, kept, cache = None, None, (), ()
        if self.exchange is not None:
            assert attended.latent is not None, "the attention gives no latent"
            h = h + self.exchange.heard(attended.latent)
            latent = self.exchange.told(h)
        if self.mixer is not None:
            assert attended.weights is not None, "the attention gives no weights"
            added, cache = self.mixer(h, attended.weights, context, past[:1])
            h = h + added
        if self.gate is not None:
            factor, kept = self.gate(h, context, past[len(cache) :])
        return Grown(
            out=self.residual_dropout(self.out(h)),
            sent=Handoff(gate=factor, latent=latent),
            cache=(*cache, *kept) if context.keep_cache else (),
        )


def _sends(config: GPTConfig, layer: int) -> bool:
    return layer < config.num_layers - 1


def _has_gate(config: GPTConfig, layer: int) -> bool:
    return config.mlp.attention_gate != "off" and _sends(config, layer)


def _require_a_part(config: GPTConfig) -> None:
    options = config.mlp
    if options.cross_token or options.latent_context or _has_gate(config, 0):
        return
    raise ConfigError(
        "MLP reciprocal has no part that does anything",
        why="all three are off"
        if options.attention_gate == "off"
        else "its gate speaks to the next block, and there is one block only",
        next="switch on cross_token, latent_context or attention_gate, or choose model.mlp.name=dense",
    )


def _parameters(config: GPTConfig, layer: int) -> int:
    options, M, H = config.mlp, config.hidden_width, config.num_heads
    found = dense_parameters(config, layer)
    if options.latent_context:
        ways = 2 if options.tying != "tied_transpose" and _sends(config, layer) else 1
        scales = (1 + _sends(config, layer)) * H if options.tying == "per_head_scalar" else 0
        found += ways * M * _latent(config) + scales
    if options.cross_token:
        found += 2 * M * options.bottleneck
    if _has_gate(config, layer):
        found += (M + 1) * options.gate_width + (options.gate_width + 1) * H
    return found


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    options, M = config.mlp, config.hidden_width
    found = dense_flops(config, layer, tokens)
    if options.latent_context:
        found += (1 + _sends(config, layer)) * 2 * tokens * M * _latent(config)
    if options.cross_token:
        found += 4 * tokens * M * options.bottleneck + 2 * tokens**2 * options.bottleneck
    if _has_gate(config, layer):
        found += 2 * tokens * (M + config.num_heads) * options.gate_width
    return found


def _latent(config: GPTConfig) -> int:
    return config.mechanisms[0].latent_width(config) or 0


def _keeps_gate(config: GPTConfig, layer: int) -> bool:
    return config.mlp.attention_gate == "running-mean" and _has_gate(config, layer)


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    kept = config.mlp.bottleneck if config.mlp.cross_token else 0
    return tokens * (kept + (config.num_heads if _keeps_gate(config, layer) else 0))


RECORD = MLPRecord(
    name="reciprocal",
    summary="dense that mixes the tokens its attention looked at, hears its latent and gates the next block",
    equation="h + a W_in z, then h_t + a W_up sum_s w_ts W_down h_s; sends a W_out h, and 1 - a + a "
    "sigmoid(W_2 W_1 h) per head",
    source="mcgrof/AdamWPrune: gpt2/ra_mla_gpt2.py (2025), as it was meant",
    make=ReciprocalMLP,
    naive=naive_reciprocal,
    parameters=_parameters,
    flops=_flops,
    cache=_cache,
    cached_tensors=lambda config, layer: config.mlp.cross_token + _keeps_gate(config, layer),
    reads_weights=lambda config: config.mlp.cross_token,
    needs_latent=lambda config: config.mlp.latent_context,
)
