"""The MLP of the lens-gated block: its hidden channels are led by what the attention has just added.

    h = act(W_fc x + b)                                         M channels
    h <- (1 - c) h + c W_up W_down sg(y),                       y the output of this block's attention
    out = W_proj h + c'

c is learned, .1 at first and never outside [0, 1]; y passes no gradient, and reaches h through
`context_width` channels. With `conductor` the context counts only while the attention's share of the residual
stream (`route` of the attention `lens`) is below one half. No two tokens meet here. mcgrof/AdamWPrune at
6bb4951 (2025-11): L6, L7.

`absent` is a block without an MLP (L4): attention alone adds to the residual stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import Attended, AttentionContext, Cache
from torchstone.nn.mlp.activation import activate
from torchstone.nn.mlp.dense import DenseMLP, dense_flops, dense_parameters
from torchstone.nn.mlp.naive import naive_absent, naive_lens_mlp
from torchstone.nn.mlp.record import Grown, MLPRecord

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig

START = 0.1


class LensMLP(DenseMLP):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__(config)
        options = config.mlp
        self.is_conducted = options.conductor
        if self.is_conducted and not config.mechanisms[0].gives_share(config):
            raise ConfigError(
                "model.mlp.conductor=y has no route to follow",
                why="only attention lens with model.attention.route=y tells its share of the residual stream",
                next="choose that attention, or model.mlp.conductor=n",
            )
        self.down = nn.Linear(config.d_model, options.context_width, bias=False)
        self.up = nn.Linear(options.context_width, config.hidden_width, bias=False)
        self.share = nn.Parameter(torch.tensor(START))

    def forward(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown:
        h = activate(self.activation, self.widen(x))
        share = self.share.clamp(0, 1)
        if self.is_conducted:
            assert attended.mlp_share is not None, "the attention tells no share"
            share = torch.where(attended.mlp_share > 0.5, share, 0.0)
        h = (1 - share) * h + share * self.up(self.down(attended.out.detach()))
        return Grown(self.residual_dropout(self.out(h)))


class AbsentMLP(nn.Module):
    def forward(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown:
        return Grown(torch.zeros_like(x))


def _context_maps(config: GPTConfig) -> int:
    return config.mlp.context_width * (config.d_model + config.hidden_width)


RECORDS = (
    MLPRecord(
        name="lens-context",
        summary="dense whose hidden channels are led by what the attention adds",
        equation="y = W_2 ((1 - c) act(W_1 x) + c W_up W_down y_attention)",
        source="mcgrof/AdamWPrune at 6bb4951 (2025-11)",
        make=LensMLP,
        naive=naive_lens_mlp,
        parameters=lambda config, layer: dense_parameters(config, layer) + _context_maps(config) + 1,
        flops=lambda config, layer, tokens: (
            dense_flops(config, layer, tokens) + 2 * tokens * _context_maps(config)
        ),
        takes_gated=True,
    ),
    MLPRecord(
        name="absent",
        summary="no MLP: a block of attention alone",
        equation="y = 0",
        source="mcgrof/AdamWPrune at 6bb4951 (2025-11): L4",
        make=lambda config, layer: AbsentMLP(),
        naive=naive_absent,
        parameters=lambda config, layer: 0,
        flops=lambda config, layer, tokens: 0,
        takes_gated=True,
        reads_stream=False,
    ),
)
