"""The plain two-layer MLP of a block, with the tanh form of GELU that GPT-2 uses.

GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.attention.context import Attended, AttentionContext, Cache
from torchstone.nn.mlp.record import Grown, MLPRecord
from torchstone.nn.naive import naive_dense

if TYPE_CHECKING:
    from jaxtyping import Float

    from torchstone.nn.gpt import GPTConfig


class DenseMLP(nn.Module):
    """Widen to `d_ff`, bend, come back."""

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.widen = nn.Linear(d_model, d_ff)
        self.out = nn.Linear(d_ff, d_model)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T C"], attended: Attended, context: AttentionContext, past: Cache
    ) -> Grown:
        return Grown(self.residual_dropout(self.out(F.gelu(self.widen(x), approximate="tanh"))))


def dense_parameters(config: GPTConfig, layer: int) -> int:
    return 2 * config.d_model * config.hidden_width + config.hidden_width + config.d_model


def dense_flops(config: GPTConfig, layer: int, tokens: int) -> int:
    return 4 * tokens * config.d_model * config.hidden_width


RECORD = MLPRecord(
    name="dense",
    summary="two layers with GELU",
    source="Radford et al. 2019; GELU: arXiv:1606.08415",
    make=lambda config, layer: DenseMLP(config.d_model, config.hidden_width, config.dropout),
    naive=naive_dense,
    parameters=dense_parameters,
    flops=dense_flops,
)
