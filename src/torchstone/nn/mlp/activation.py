"""What bends the hidden channels of an MLP, by name (`model.activation`).

    gelu         x Phi(x), exact (Hendrycks and Gimpel 2016, arXiv:1606.08415)
    gelu-tanh    its approximation by tanh, which GPT-2 uses
    relu2        max(0, x)^2 (So et al. 2021, arXiv:2109.08668)
    swiglu       silu(x) y (Shazeer 2020, arXiv:2002.05202); x and y are the halves of what comes in

M is the number of hidden channels that come out; what comes in has `num_inputs(name, M)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

ACTIVATIONS = ("gelu", "gelu-tanh", "relu2", "swiglu")
GATED = ("swiglu",)
"""They take two channels for each that they give."""


def num_inputs(name: str, channels: int) -> int:
    return 2 * channels if name in GATED else channels


def activate(name: str, wide: Float[Tensor, "B T W"]) -> Float[Tensor, "B T M"]:
    if name == "gelu":
        return F.gelu(wide)
    if name == "gelu-tanh":
        return F.gelu(wide, approximate="tanh")
    if name == "relu2":
        return F.relu(wide).square()
    assert name == "swiglu", name
    gate, value = wide.chunk(2, dim=-1)
    return F.silu(gate) * value
