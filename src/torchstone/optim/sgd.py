"""Gradient descent with momentum: torch's own."""

from __future__ import annotations

from typing import Any

import torch

from torchstone.optim.adamw import can_fuse
from torchstone.optim.config import OptimConfig


def sgd(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """`torch.optim.SGD`, fused where every parameter allows it; weight decay is an L2 term."""
    # torch 2.13 has no rule for its fused kernel on tensors that FSDP split.
    is_split = any(hasattr(each, "device_mesh") for group in groups for each in group["params"])
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=can_fuse(groups) and not is_split,
    )
