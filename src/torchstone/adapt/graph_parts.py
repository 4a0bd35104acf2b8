"""What a completed `forward` calls besides the model's own modules: few and plain tensor functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int

NAME = "_torchstone_parts"
"""Under this name completed code finds this module."""


def first(value: Any) -> Tensor:
    """The result proper of a module that also returns weights or a cache."""
    tensor: Tensor = value[0] if isinstance(value, tuple) else value
    return tensor


def embed(model: nn.Module, index: int, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
    """Token table, then positions and dropout where the model has them."""
    x: Tensor = token_table(model, index)(ids)
    pos = getattr(model, f"embedding_{index}_pos", None)
    if pos is not None:
        x = x + _positions(pos, x)
    for name in ("norm", "dropout"):
        part: Any = getattr(model, f"embedding_{index}_{name}", None)
        if part is not None:
            x = part(x)
    return x


def token_table(model: nn.Module, index: int) -> Any:
    """The module that turns ids into vectors; AttributeError when there is none."""
    for name in (f"embedding_{index}_token", f"embedding_{index}", f"embedding_{index}_tokens"):
        if hasattr(model, name):
            return getattr(model, name)
    for path in ("embedding", "embeddings", "wte", "word_embeddings", "embed_tokens", "transformer.wte"):
        if path in {name for name, _ in model.named_modules()}:
            return model.get_submodule(path)
    raise AttributeError(f"no embedding_{index}_token")


def _positions(pos: Any, x: Tensor) -> Tensor:
    length = x.shape[1]
    if isinstance(pos, nn.Embedding):
        return pos(torch.arange(length, device=x.device))
    if isinstance(pos, Tensor):
        return pos[..., :length, :]
    return pos(x)


def padding(mask: Tensor | None, like: Tensor | None = None) -> Tensor | None:
    """`attention_mask` (1 keeps) as the `key_padding_mask` (True hides) of nn.MultiheadAttention."""
    if mask is None:
        return None
    hidden = mask == 0
    if like is not None and like.is_floating_point():
        return torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, float("-inf"))
    return hidden


def square(mask: Tensor, x: Tensor) -> Tensor:
    """The corner of a causal mask buffer that `x` needs."""
    return mask[..., : x.shape[1], : x.shape[1]]
