"""The plain MLP of a block: widen, bend, come back; with a gated activation, two maps make what is bent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, AttentionContext, Cache
from torchstone.nn.mlp.activation import activate, num_inputs
from torchstone.nn.mlp.record import Grown, MLPRecord
from torchstone.nn.naive import naive_dense

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class DenseMLP(nn.Module):
    """`widen` makes the hidden channels, or both halves of what a gated activation takes."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.activation
        wide = num_inputs(config.activation, config.hidden_width)
        self.widen = nn.Linear(config.d_model, wide, bias=config.bias)
        self.out = nn.Linear(config.hidden_width, config.d_model, bias=config.bias)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown:
        return Grown(self.residual_dropout(self.out(activate(self.activation, self.widen(x)))))

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


def dense_parameters(config: GPTConfig, layer: int) -> int:
    C, M, wide = config.d_model, config.hidden_width, num_inputs(config.activation, config.hidden_width)
    return C * (wide + M) + (wide + C) * config.bias


def dense_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    M = config.hidden_width
    return 2 * tokens * config.d_model * (num_inputs(config.activation, M) + M)


RECORD = MLPRecord(
    name="dense",
    summary="two layers with an activation between them; three where it is gated",
    equation="y = W_2 act(W_1 x + b_1) + b_2",
    source="Radford et al. 2019; gated: Shazeer 2020, arXiv:2002.05202",
    make=lambda config, layer: DenseMLP(config),
    naive=naive_dense,
    parameters=dense_parameters,
    flops=dense_flops,
    takes_gated=True,
)
