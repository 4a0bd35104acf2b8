"""The same architecture with other weights: trainable weights get a little noise, in place.

A path that is closed by a weight of zero (a gate, a zero-initialised projection) opens, so that a probe
sees what the architecture allows and not only what today's weights show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchstone.checks.context import Context

_NOISE = 0.1


@contextmanager
def noised(context: Context, seed: int = 0) -> Iterator[None]:
    """The model of `context` with noise on its weights."""
    generator = torch.Generator().manual_seed(context.seed * 31 + seed + 17)
    weights = [each for each in context.module.parameters() if each.is_floating_point()]
    trainable = [each for each in weights if each.requires_grad]
    chosen = trainable or [each for each in weights if not _is_mask(each)]
    with replaced(chosen, lambda weight: weight + _noise_for(weight, generator)):
        yield


@contextmanager
def rounded_anew(context: Context, unit: float, seed: int = 0) -> Iterator[None]:
    """Every weight up or down by `unit` of itself: what rounding alone may do to an answer."""
    generator = torch.Generator().manual_seed(context.seed * 31 + seed + 29)
    chosen = [each for each in context.module.parameters() if each.is_floating_point()]

    def moved(weight: Tensor) -> Tensor:
        up = torch.rand(weight.shape, generator=generator).to(weight.device) < 0.5
        return weight * torch.where(up, 1 + unit, 1 - unit).to(weight.dtype)

    with replaced(chosen, moved):
        yield


@contextmanager
def replaced(tensors: Sequence[Tensor], by: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Other data in these tensors for the length of the block, without breaking shared storages."""
    originals = [each.data for each in tensors]
    try:
        for each in tensors:
            each.data = by(each.data)
        yield
    finally:
        for each, original in zip(tensors, originals, strict=True):
            each.data = original


def _noise_for(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A tenth of the weight's own spread; a constant weight gets that of a small layer."""
    spread = float(weight.std()) if weight.numel() > 1 else 0.0
    noise = torch.randn(weight.shape, generator=generator)
    return (noise * _NOISE * (spread or 0.2)).to(weight)


def _is_mask(weight: Tensor) -> bool:
    """A frozen tensor of zeros and ones, or with infinities, is a mask and no weight."""
    if bool(torch.isinf(weight).any()):
        return True
    return bool(((weight == 0) | (weight == 1)).all()) and bool((weight != weight.flatten()[0]).any())
