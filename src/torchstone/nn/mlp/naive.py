"""Slow twins of the MLPs, one token at a time where tokens meet. The plain one's is in `nn/naive.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, Handoff
from torchstone.nn.mlp.record import Grown
from torchstone.nn.naive import naive_activation, naive_linear

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.config import MLPConfig
    from torchstone.nn.gpt import GPTConfig
    from torchstone.nn.mlp.lens_context import LensMLP
    from torchstone.nn.mlp.reciprocal import LatentExchange, ReciprocalMLP
    from torchstone.nn.mlp.rmlp import RMLP


def naive_reciprocal(
    layer: ReciprocalMLP, x: Float[Tensor, "T C"], attended: Attended, config: GPTConfig
) -> Grown:
    options = config.mlp
    h = naive_activation(config.activation, naive_linear(layer.widen, x))
    latent = gate = None
    if layer.exchange is not None:
        assert attended.latent is not None
        M, H = h.shape[1], config.num_heads
        a, heads = options.latent_strength, [channel * H // M for channel in range(M)]
        h = h + a * _of_heads(layer.exchange.read_scale, heads) * (
            attended.latent.detach() @ layer.exchange.read.weight.T
        )
        if not layer.exchange.is_last:
            latent = a * (h * _of_heads(layer.exchange.write_scale, heads)) @ _way_back(layer.exchange)
    if layer.mixer is not None:
        assert attended.weights is not None
        mixed = []
        for t, row in enumerate(attended.weights.detach()):
            shares = naive_shares(row[: t + 1], options)
            of_others = torch.stack([share * h[s] for s, share in enumerate(shares)]).sum(0)
            mixed.append(layer.mixer.up.weight @ (layer.mixer.down.weight @ of_others))
        h = h + options.cross_strength * torch.stack(mixed)
    if layer.gate is not None:
        judged = []
        for t in range(len(h)):
            u = layer.gate.narrow.weight @ h[t] + layer.gate.narrow.bias
            if options.attention_gate == "running-mean":
                u = layer.gate.narrow.weight @ h[: t + 1].mean(0) + layer.gate.narrow.bias
            opening = 1 / (1 + torch.exp(-(layer.gate.judge.weight @ u + layer.gate.judge.bias)))
            judged.append((1 - options.gate_strength) + options.gate_strength * opening)
        gate = torch.stack(judged, dim=1)
    return Grown(naive_linear(layer.out, h), sent=Handoff(gate=gate, latent=latent))


def naive_rmlp(layer: RMLP, x: Float[Tensor, "T C"], attended: Attended, config: GPTConfig) -> Grown:
    rows = []
    if layer.reciprocal is None:
        assert attended.projection is not None
        second = torch.stack([attended.projection[row] for row in range(config.mlp.reciprocal_width)])
    else:
        second = layer.reciprocal.weight
    for own, heard in zip(x, attended.out, strict=True):
        standard = naive_activation(config.activation, layer.standard.weight @ own)
        reciprocal = naive_activation(config.activation, second @ (own + layer.coupling * heard))
        if layer.mixer is not None:
            reciprocal = layer.mixer.weight @ reciprocal
        if layer.token_gate is not None:
            judged = layer.token_gate.weight @ own + layer.token_gate.bias
            reciprocal = reciprocal / (1 + torch.exp(-judged))
        standard = layer.standard_weight / (1 + torch.exp(-layer.standard_skip)) * standard
        rows.append(layer.out.weight @ torch.cat([standard, _second_share(layer) * reciprocal]))
    return Grown(torch.stack(rows))


def naive_lens_mlp(layer: LensMLP, x: Float[Tensor, "T C"], attended: Attended, config: GPTConfig) -> Grown:
    share = torch.minimum(torch.maximum(layer.share, torch.zeros(())), torch.ones(()))
    if config.mlp.conductor and not (attended.mlp_share is not None and attended.mlp_share > 0.5):
        share = 0 * share
    h = naive_activation(config.activation, naive_linear(layer.widen, x))
    led = [layer.up.weight @ (layer.down.weight @ added) for added in attended.out.detach()]
    return Grown(naive_linear(layer.out, (1 - share) * h + share * torch.stack(led)))


def naive_absent(layer: nn.Module, x: Float[Tensor, "T C"], attended: Attended, config: GPTConfig) -> Grown:
    return Grown(0 * x)


def naive_confidence(layer: RMLP) -> Float[Tensor, ""]:
    return _second_share(layer) * layer.coupling


def _second_share(layer: RMLP) -> Float[Tensor, ""]:
    on = 1.0 if layer.switch is None else layer.switch.factor
    return on * layer.reciprocal_weight / (1 + torch.exp(-layer.reciprocal_skip))


def naive_shares(p: Float[Tensor, " t"], options: MLPConfig) -> Float[Tensor, " t"]:
    """What stays of a row of weights, summing to 1."""
    if options.sparsify == "topk":
        best = p.argsort(descending=True)[: options.topk].tolist()
        p = torch.stack([p[s] if s in best else p.new_zeros(()) for s in range(len(p))])
    if options.sparsify == "rms":
        p = torch.where(p >= options.rms_threshold * (p**2).mean() ** 0.5, p, 0.0)
    return p / p.sum()


def _of_heads(scales: nn.Parameter | None, heads: list[int]) -> Tensor | float:
    return 1.0 if scales is None else torch.stack([scales[head] for head in heads])


def _way_back(exchange: LatentExchange) -> Float[Tensor, "M L"]:
    return exchange.read.weight if exchange.write is None else exchange.write.weight.T
