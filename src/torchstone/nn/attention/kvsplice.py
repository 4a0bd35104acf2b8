"""KVSplice after training: `sdpa` whose values are cached in few dimensions of a fitted geometry.

    model = GPT(GPTConfig(attention=AttentionConfig(name="kvsplice", value_rank=16), ...))
    model.load_state_dict(trained_with_sdpa.state_dict(), strict=False)
    fit_kvsplice(model, batches)                   # one geometry per block, shared by its heads

The geometry (`geometry.py`) is no parameter: nothing trains it but `fit_kvsplice`. The full pass sends values
there and back as decoding does, so what is measured is what is decoded; keys are cached whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone._errors import ConfigError, UsageError
from torchstone.nn.attention.causal import CausalSelfAttention, causal_flops, causal_parameters
from torchstone.nn.attention.context import Attended, AttentionContext, Cache, Handoff, Looked
from torchstone.nn.attention.geometry import Geometry, fit_geometry
from torchstone.nn.attention.heads import split_heads
from torchstone.nn.attention.naive_splice import naive_kvsplice
from torchstone.nn.attention.record import AttentionRecord, head_width

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from torchstone.nn.gpt import GPT, GPTConfig

MOST_VALUES = 120_000
"""Of one block, to fit its geometry."""


class SplicedAttention(CausalSelfAttention):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        rank = config.attention.value_rank
        if rank > self.head_width:
            raise ConfigError(
                f"model.attention.value_rank={rank} is more than the {self.head_width} channels of a head"
            )
        self.geometry = Geometry(self.head_width, rank)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: AttentionContext,
        sent: Handoff,
        past: Cache | None = None,
    ) -> Attended:
        q, k, v = self.prepare(x, context)
        small = self.geometry.encode(v)
        if past is not None:
            k, small = torch.cat([past[0], k], dim=2), torch.cat([past[1], small], dim=2)
        scores, _ = self.scores(q, k, None)
        mixed, scores = self.mix(scores, self.geometry.decode(small), context)
        return Attended(
            out=self.residual_dropout(self.finish(mixed, x, sent)),
            cache=(k, small) if context.keep_cache else (),
            weights=scores.mean_weights(context) if context.keep_weights else None,
            looked=Looked(scores, context) if context.keep_scores else None,
        )


@torch.no_grad()
def fit_kvsplice(
    model: GPT, batches: Iterable[Int[Tensor, "B T"]], *, splines: bool = True, seed: int = 0
) -> list[float]:
    """Fit the geometry of every block to the values that `batches` give; the relative error of each block.

    Blocks are fitted in order, each on what it gets behind the ones that are fitted already.
    """
    layers = [each for each in model.modules() if isinstance(each, SplicedAttention)]
    if not layers:
        raise UsageError("fit_kvsplice fits a GPT whose attention is kvsplice")
    seen, errors, was_training = list(batches), [], model.training
    model.eval()
    for layer in layers:
        values = _values(model, layer, seen)
        with torch.enable_grad():
            fitted = fit_geometry(values, layer.geometry.directions.shape[1], splines=splines, seed=seed)
        layer.geometry.load_state_dict(fitted.state_dict())
        left = layer.geometry.decode(layer.geometry.encode(values)) - values
        errors.append(float(left.pow(2).mean() / values.var(dim=0, correction=0).mean()))
    model.train(was_training)
    return errors


def _values(model: GPT, layer: SplicedAttention, batches: list[Tensor]) -> Float[Tensor, "N D"]:
    found: list[Tensor] = []

    def take(_module: object, _inputs: object, out: Tensor) -> None:
        v = split_heads(out.chunk(3, dim=-1)[2], layer.num_heads)
        found.append(v.transpose(1, 2).flatten(0, 2).float())

    handle = layer.qkv.register_forward_hook(take)
    try:
        for ids in batches:
            model(ids)
            if sum(map(len, found)) >= MOST_VALUES:
                break
    finally:
        handle.remove()
    return torch.cat(found)[:MOST_VALUES]


def _flops(config: GPTConfig, layer: int, tokens: int) -> int:
    return causal_flops(config, layer, tokens) + 4 * tokens * config.d_model * config.attention.value_rank


def _cache(config: GPTConfig, layer: int, tokens: int) -> int:
    return (config.d_model + config.num_heads * config.attention.value_rank) * tokens


RECORDS = (
    AttentionRecord(
        name="kvsplice",
        summary="sdpa whose values are cached in few dimensions of a geometry fitted after training",
        equation="sdpa with v replaced by g^-1(W W^T (g(v) - mean) + mean), g monotone splines, W main "
        "directions",
        source="mcgrof/AdamWPrune: KVSplice (2025-11)",
        make=lambda config, layer: SplicedAttention(config),
        naive=naive_kvsplice,
        parameters=causal_parameters,
        flops=_flops,
        cache=_cache,
        qk_width=head_width,
    ),
)
