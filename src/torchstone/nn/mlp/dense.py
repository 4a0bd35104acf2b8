"""The plain two-layer MLP of a block, with the tanh form of GELU that GPT-2 uses.

GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


class DenseMLP(nn.Module):
    """Widen to `d_ff`, bend, come back."""

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.widen = nn.Linear(d_model, d_ff)
        self.out = nn.Linear(d_ff, d_model)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return self.residual_dropout(self.out(F.gelu(self.widen(x), approximate="tanh")))
