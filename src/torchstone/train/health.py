"""Layers that learn nothing, or too much: gradient and weight norms per layer, and a word where they are odd.

The gradient norms fall off when the gradient is clipped, so watching them costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torchstone.train.update import Applied

VANISHING = 1e-7
EXPLODING = 10.0


class LayerHealth:
    """Norms by the module that owns the parameters; odd ones are remembered once per layer."""

    def __init__(self, module: nn.Module, parameters: list[Tensor]) -> None:
        names = {id(each): name for name, each in module.named_parameters()}
        self._parameters = parameters
        self._owners = [names[id(each)].rpartition(".")[0] or "model" for each in parameters]
        self._said: dict[str, str] = {}

    @property
    def warnings(self) -> list[str]:
        return [f"layer {layer}: {what}" for layer, what in self._said.items()]

    @torch.no_grad()
    def read(self, update: Applied) -> dict[str, float]:
        """`layers/NAME/grad_norm` and `layers/NAME/weight_norm`, L2, of each layer."""
        gradients = self._by_owner(update.norms)
        weights = self._by_owner(dict(enumerate(torch._foreach_norm(self._parameters))))
        for layer, norm in gradients.items():
            if 0 < norm < VANISHING:
                self._said.setdefault(layer, f"its gradient vanishes (norm {norm:.1e})")
            elif norm > EXPLODING:
                self._said.setdefault(layer, f"its gradient explodes (norm {norm:.1e} before clipping)")
        row = {f"layers/{layer}/grad_norm": norm for layer, norm in gradients.items()}
        return row | {f"layers/{layer}/weight_norm": norm for layer, norm in weights.items()}

    def _by_owner(self, norms: Mapping[int, Tensor]) -> dict[str, float]:
        squares: dict[str, float] = {}
        values = torch.stack(list(norms.values())).tolist() if norms else []  # read all at once
        for place, norm in zip(norms, values, strict=True):
            owner = self._owners[place]
            squares[owner] = squares.get(owner, 0.0) + norm**2
        return {owner: math.sqrt(total) for owner, total in squares.items()}
