"""Checkpoints that hold a part of a model: the rest is its base, which is had again from where it came.

The model record of such a checkpoint lists the entries that are `kept` and has the hash of all others, so
that adapters are never put on another base than they were trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from torchstone._errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from torchstone.tracking.checkpoint import Checkpoint

KEPT, BASE = "kept", "base_sha256"


def part_of(entries: Mapping[str, Any], kept: Collection[str] | None) -> dict[str, Any]:
    """The entries of a state dict that a checkpoint holds; None: all."""
    wanted = None if kept is None else frozenset(kept)
    return {name: value for name, value in entries.items() if wanted is None or name in wanted}


def base_hash(module: nn.Module, kept: Collection[str]) -> str:
    """Of names, shapes, types and values of the entries that are not kept."""
    import torch

    mine, digest = frozenset(kept), hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name in mine or not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_base(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse a base that is not the one the kept part was trained on."""
    record = checkpoint.model
    if record.get(KEPT) is None or base_hash(module, record[KEPT]) == record[BASE]:
        return
    raise ModelError(
        f"checkpoint {checkpoint.path.name} was trained on another base model",
        where=str(checkpoint.path),
        why=f"it holds adapters only, and the weights of {record.get('target')} are not what they were",
        next="bring the base back as it was, or start a new run",
    )
