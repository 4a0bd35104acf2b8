"""The optimizers one can name, and how one is built for a module.

A new optimizer is one file with a factory and one record here; `tests/laws/test_optimizers.py` then
holds it to the laws (it descends, it resumes bit for bit) without further work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchstone._registry import Registry
from torchstone.optim.adamw import adamw
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import parameter_groups

Groups = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class OptimizerRecord:
    """One optimizer: its factory takes parameter groups and the `optim.*` section."""

    name: str
    factory: Callable[[Groups, OptimConfig], torch.optim.Optimizer]
    summary: str
    """One line."""
    source: str
    """Paper or code it comes from."""


OPTIMIZERS: Registry[OptimizerRecord] = Registry("optimizer")

OPTIMIZERS.add(
    OptimizerRecord(
        name="adamw",
        factory=adamw,
        summary="Adam with decoupled weight decay; torch's own kernels, fused where they exist",
        source="Loshchilov & Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101",
    )
)


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names, over the trainable parameters of `module`, grouped by role."""
    return OPTIMIZERS.get(config.name).factory(parameter_groups(module, config.weight_decay), config)
