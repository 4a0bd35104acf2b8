"""Sizes that waste a GPU's matrix units: vocabulary and widths that are not multiples of 64.

Tensor cores take matrices in tiles; a dimension that fills no whole tile gets a slower kernel or is padded
(NVIDIA, Deep Learning Performance Guide: multiples of 64 elements in 16-bit formats on A100). They are told,
and nothing is changed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn

log = logging.getLogger(__name__)

GOOD = 64
SMALLEST = 64
"""Below this a dimension is a number of classes or heads, not a width."""


@dataclass(frozen=True)
class Waste:
    """One size that is no multiple of 64, where it stands first, and in how many layers."""

    what: str
    size: int
    module: str
    layers: int

    @property
    def nearest(self) -> tuple[int, int]:
        """The good sizes below and above."""
        below = self.size // GOOD * GOOD
        return below, below + GOOD


def find_waste(module: nn.Module) -> list[Waste]:
    """Sizes of embeddings and linear layers that are no multiples, the most frequent first."""
    found: dict[tuple[str, int], list[str]] = {}
    vocabularies = {each.num_embeddings for each in module.modules() if isinstance(each, nn.Embedding)}
    for name, each in module.named_modules():
        sizes: list[int] = []
        if isinstance(each, nn.Linear):
            sizes = [each.in_features, each.out_features]
        elif isinstance(each, nn.Embedding):
            sizes = [each.num_embeddings, each.embedding_dim]
        for size in sizes:
            if size >= SMALLEST and size % GOOD:
                what = "vocabulary" if size in vocabularies else "width"
                found.setdefault((what, size), []).append(name)
    wastes = [Waste(what, size, names[0], len(names)) for (what, size), names in found.items()]
    return sorted(wastes, key=lambda waste: -waste.layers)


def size_hint(module: nn.Module) -> str | None:
    """One line that names the sizes and the nearest good ones; None where all are good."""
    wastes = find_waste(module)
    if not wastes:
        return None
    told = [
        f"{each.what} {each.size:,} ({each.module}"
        + (f" and {each.layers - 1} more" if each.layers > 1 else "")
        + f"): {' or '.join(f'{size:,}' for size in each.nearest if size)}"
        for each in wastes[:4]
    ]
    return f"sizes that are no multiples of {GOOD} leave matrix units idle: " + "; ".join(told)


def tell_sizes(module: nn.Module, device: torch.device, notes: list[str]) -> None:
    """A note of the run where a GPU would do better; where there are no tiles, only on demand (-v)."""
    hint = size_hint(module)
    if hint is None:
        return
    if device.type == "cuda":
        notes.append(hint)
    else:
        log.info("on a GPU, %s", hint)
