"""The whole state of a run as a checkpoint, and back: weights, optimizer, progress, generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import ModelError
from torchstone._seeds import restore_rng, rng_state
from torchstone.tracking.checkpoint import Checkpoint, write_checkpoint
from torchstone.train.progress import Progress


def save_snapshot(
    checkpoints: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    config_hash: str,
    model: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `progress.step`."""
    entries = module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    state = {
        "optimizer": optimizer.state_dict(),
        "progress": progress.to_dict(),
        "rng": rng_state(),
        "model_extra": {name: value for name, value in entries.items() if name not in tensors},
    }
    return write_checkpoint(checkpoints, progress.step, tensors, state, config_hash=config_hash, model=model)


def restore_snapshot(checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put module, optimizer and generators back to where the checkpoint was taken."""
    state = checkpoint.state()
    load_weights(module, checkpoint, extra=state["model_extra"])
    optimizer.load_state_dict(state["optimizer"])
    restore_rng(state["rng"])
    return Progress.from_dict(state["progress"])


def load_weights(
    module: nn.Module, checkpoint: Checkpoint, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Load the weights of a checkpoint; one of another architecture is refused before anything is touched."""
    tensors: dict[str, Any] = {**checkpoint.tensors(), **(extra or {})}
    differences = shape_differences(module, tensors)
    if differences:
        raise ModelError(
            f"checkpoint {checkpoint.path.name} belongs to another architecture",
            where=str(checkpoint.path),
            why="; ".join(differences[:5])
            + (f"; and {len(differences) - 5} more" if len(differences) > 5 else ""),
            next="give the model that was trained, or start a new run",
        )
    module.load_state_dict(tensors)


def shape_differences(module: nn.Module, tensors: Mapping[str, Any]) -> list[str]:
    """Where names and shapes of a state dict and a module part, in the order of the module."""
    own = module.state_dict(keep_vars=True)
    differences = []
    for name, value in own.items():
        if name not in tensors:
            differences.append(f"{name} is not in the checkpoint")
        elif isinstance(value, Tensor) and value.shape != tensors[name].shape:
            differences.append(
                f"{name} has shape {tuple(value.shape)}, in the checkpoint {tuple(tensors[name].shape)}"
            )
    return differences + [f"the model has no {name}" for name in tensors if name not in own]
