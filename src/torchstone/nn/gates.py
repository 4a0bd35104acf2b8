"""What a model has learned to let through: its learned scalars by name, one way for all mechanisms.

    gates_of(model)      # {"blocks.0.attention.reciprocity/alpha": tensor(0.31), ...}

A mechanism with learned scalars inherits `Gates` and tells them as they act in the forward pass (after the
softmax, the sigmoid, the warm-up), one number or one per head. Of other modules, ours or a stranger's,
learned parameters of a single number are told as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


class Gates:
    """A module that tells its learned scalars."""

    def gates(self) -> dict[str, Float[Tensor, ""] | Float[Tensor, " H"]]:
        """By name, as they act; nothing where they neither learn nor warm up."""
        raise NotImplementedError


@torch.no_grad()
def gates_of(model: nn.Module) -> dict[str, Tensor]:
    """`path/name` -> one number, or one per head, detached."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        told = module.gates() if isinstance(module, Gates) else _scalars(module)
        for name, value in told.items():
            found[f"{path or 'model'}/{name}"] = value.detach().clone()
    return found


def _scalars(module: nn.Module) -> dict[str, Tensor]:
    """Learned single numbers of a module that is none of torch's: those have biases of one number too."""
    if type(module).__module__.startswith("torch."):
        return {}
    own = module.named_parameters(recurse=False)
    return {name: each for name, each in own if each.numel() == 1 and each.requires_grad}


def gate_metrics(model: nn.Module) -> dict[str, float]:
    """A row of metrics: `gates/PATH/NAME`, and `gates/PATH/NAME/HEAD` where each head has its own."""
    gates = gates_of(model)
    if not gates:
        return {}
    numbers = torch.cat([each.reshape(-1).float().cpu() for each in gates.values()]).tolist()
    row: dict[str, float] = {}
    for name, value in gates.items():
        heads = [""] if value.dim() == 0 or value.numel() == 1 else [f"/{h}" for h in range(value.numel())]
        for head in heads:
            row[f"gates/{name}{head}"] = numbers[len(row)]
    return row
