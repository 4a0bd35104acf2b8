"""Optimizers, their schedules and parameter groups; `registry.py` lists what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily

__all__ = ["OPTIMIZERS", "OptimConfig", "build_optimizer", "learning_rate_at", "parameter_groups"]

if TYPE_CHECKING:
    from torchstone.optim.config import OptimConfig as OptimConfig
    from torchstone.optim.groups import parameter_groups as parameter_groups
    from torchstone.optim.registry import OPTIMIZERS as OPTIMIZERS
    from torchstone.optim.registry import build_optimizer as build_optimizer
    from torchstone.optim.schedule import learning_rate_at as learning_rate_at

__getattr__, __dir__ = lazily(
    __name__,
    {
        "OPTIMIZERS": "torchstone.optim.registry",
        "OptimConfig": "torchstone.optim.config",
        "build_optimizer": "torchstone.optim.registry",
        "learning_rate_at": "torchstone.optim.schedule",
        "parameter_groups": "torchstone.optim.groups",
    },
)
