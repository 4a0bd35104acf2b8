"""Between the width of the model and that of its heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchstone._errors import ConfigError
from torchstone.nn.attention.context import Handoff

if TYPE_CHECKING:
    from jaxtyping import Float


def require_heads(d_model: int, num_heads: int) -> None:
    """A width that its heads cannot share is a ConfigError."""
    if d_model % num_heads:
        raise ConfigError(
            f"d_model={d_model} cannot be shared among num_heads={num_heads}",
            why="each head takes an equal slice of the width",
            next=f"choose a d_model that is a multiple of {num_heads}, or another num_heads",
        )


def split_heads(x: Float[Tensor, "B T C"], num_heads: int) -> Float[Tensor, "B H T D"]:
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def join_heads(mixed: Float[Tensor, "B H T D"], sent: Handoff) -> Float[Tensor, "B T C"]:
    """The heads side by side, each scaled by the gate that the block before sent."""
    if sent.gate is not None:
        mixed = mixed * sent.gate[..., None].to(mixed.dtype)
    return mixed.transpose(1, 2).flatten(2)
