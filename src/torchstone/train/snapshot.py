"""The whole state of a run as a checkpoint, and back: weights, optimizer, progress, generators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from torchstone._errors import ModelError, UsageError
from torchstone._seeds import restore_rng, rng_state
from torchstone.tracking.buffers import restore_buffers, unlisted_buffers
from torchstone.tracking.checkpoint import Checkpoint, write_checkpoint
from torchstone.tracking.partial import KEPT, part_of, require_base
from torchstone.tracking.state_file import map_tensors, memory_of
from torchstone.train.progress import Progress

if TYPE_CHECKING:
    from torchstone.tracking.shards import Shards

RNG_OF_RANKS = "rng_of_ranks"
"""Generators by rank, in the state of a checkpoint that several ranks made."""


class Stateful(Protocol):
    """A part of a run with a state of its own: EMA, gradient scaler, pruner."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint of `step` holds. Its tensors are the live ones, except in a `private_copy`."""

    step: int
    tensors: Mapping[str, Tensor]
    """The model's state dict, tied entries under all their names."""
    state: Mapping[str, Any]
    arriving: Sequence[torch.cuda.Event] = ()
    """Copies from a device that may still be under way; wait for these before reading."""
    shards: Shards | None = None
    """Content of the tensors that are split over processes, written already."""


def take_snapshot(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    extra: Mapping[str, Stateful] | None = None,
    kept: Collection[str] | None = None,
) -> Snapshot:
    """Everything that the next step depends on. `extra` parts are kept under their names.

    `kept`: only these entries of the model, where the others are had from its base.
    """
    entries = part_of(module.state_dict(keep_vars=True), kept)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    state = {
        "optimizer": optimizer.state_dict(),
        "progress": progress.to_dict(),
        "rng": rng_state(),
        "model_extra": {name: value for name, value in entries.items() if name not in tensors},
        "buffers": unlisted_buffers(module),
        "extra": {name: part.state_dict() for name, part in (extra or {}).items()},
    }
    return Snapshot(step=progress.step, tensors=tensors, state=state)


def private_copy(snapshot: Snapshot) -> Snapshot:
    """The same on the host, in memory of its own; tensors that share memory share it again.

    From a CUDA device the copies go through pinned memory in the order of the current stream, so what is
    queued after them (the next update) cannot change them, and nobody waits here.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}
    devices: set[torch.device] = set()

    def copied(tensor: Tensor) -> Tensor:
        place = memory_of(tensor)
        if place not in copies:
            copies[place] = _on_host(tensor.detach())
            if tensor.is_cuda:
                devices.add(tensor.device)
        return copies[place]

    tensors = {name: copied(tensor) for name, tensor in snapshot.tensors.items()}
    state = map_tensors(dict(snapshot.state), copied)
    arriving = [torch.cuda.current_stream(device).record_event() for device in devices]
    return Snapshot(step=snapshot.step, tensors=tensors, state=state, arriving=arriving)


def _on_host(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True)
    return tensor.clone() if tensor.device.type == "cpu" else tensor.cpu()


def save_snapshot(
    checkpoints: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    config_hash: str,
    model: Mapping[str, Any],
    extra: Mapping[str, Stateful] | None = None,
) -> Path:
    """Write the checkpoint of `progress.step`, now and here."""
    snapshot = take_snapshot(module, optimizer, progress, extra, model.get(KEPT))
    return write_snapshot(checkpoints, snapshot, config_hash=config_hash, model=model)


def write_snapshot(
    checkpoints: Path, snapshot: Snapshot, *, config_hash: str, model: Mapping[str, Any]
) -> Path:
    for copying in snapshot.arriving:
        copying.synchronize()
    progress = snapshot.state["progress"]
    validated = progress["evaluated_step"] == snapshot.step
    return write_checkpoint(
        checkpoints,
        snapshot.step,
        snapshot.tensors,
        snapshot.state,
        config_hash=config_hash,
        model=model,
        metrics=progress["last_validation"] if validated else None,
        shards=snapshot.shards,
    )


def restore_snapshot(
    checkpoint: Checkpoint,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Stateful] | None = None,
    *,
    rank: int = 0,
) -> Progress:
    """Put module, optimizer, extra parts and generators back to where the checkpoint was taken.

    A rank that the checkpoint does not know keeps the generators it has.
    """
    state = checkpoint.state()
    kept = state.get("extra", {})
    missing = [name for name in extra or {} if name not in kept]
    if missing:
        raise UsageError(
            f"checkpoint {checkpoint.path.name} holds no state of {', '.join(missing)}",
            where=str(checkpoint.path),
            why="the run that wrote it was configured without",
            next="continue it with the configuration it had, or start a new run",
        )
    load_weights(module, checkpoint, extra=state["model_extra"])
    restore_buffers(module, state.get("buffers", {}))
    optimizer.load_state_dict(state["optimizer"])
    for name, part in (extra or {}).items():
        part.load_state_dict(kept[name])
    generators = state.get(RNG_OF_RANKS) or [state["rng"]]
    if rank < len(generators):
        restore_rng(generators[rank])
    return Progress.from_dict(state["progress"])


def load_weights(
    module: nn.Module, checkpoint: Checkpoint, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Load the weights of a checkpoint; one of another architecture is refused before anything is touched."""
    tensors: dict[str, Any] = {**checkpoint.tensors(), **(extra or {})}
    kept = checkpoint.model.get(KEPT)
    differences = shape_differences(module, tensors, kept)
    if differences:
        raise ModelError(
            f"checkpoint {checkpoint.path.name} belongs to another architecture",
            where=str(checkpoint.path),
            why="; ".join(differences[:5])
            + (f"; and {len(differences) - 5} more" if len(differences) > 5 else ""),
            next="give the model that was trained, or start a new run",
        )
    require_base(module, checkpoint)
    module.load_state_dict(tensors, strict=kept is None)


def shape_differences(
    module: nn.Module, tensors: Mapping[str, Any], kept: Collection[str] | None = None
) -> list[str]:
    """Where names and shapes of a state dict and a module part, in the order of the module."""
    own = part_of(module.state_dict(keep_vars=True), kept)
    differences = []
    for name, value in own.items():
        if name not in tensors:
            differences.append(f"{name} is not in the checkpoint")
        elif isinstance(value, Tensor) and value.shape != tensors[name].shape:
            differences.append(
                f"{name} has shape {tuple(value.shape)}, in the checkpoint {tuple(tensors[name].shape)}"
            )
    return differences + [f"the model has no {name}" for name in tensors if name not in own]
