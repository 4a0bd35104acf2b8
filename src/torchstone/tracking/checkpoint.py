"""The checkpoint format: written whole or not at all, verified before it is used, replaced when bad.

    checkpoints/step-700/model.safetensors   weights; tied ones once
                         state.pt            everything else; loads with weights_only=True
                         manifest.json       size and sha256 of each file, config hash, the model's origin
    checkpoints/quarantine/                  folders that failed verification

A checkpoint is written into a hidden neighbour, flushed, and takes its name in one rename, so that a
reader never sees a part of one. When to save and what to keep is decided in `train/`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import DiskFull, TorchstoneError
from torchstone._files import flush, read_json, sha256, write_json

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "torchstone.checkpoint/1"
WEIGHTS = "model.safetensors"
STATE = "state.pt"
MANIFEST = "manifest.json"
QUARANTINE = "quarantine"
_NAME = re.compile(r"step-(\d+)")


class CheckpointDamaged(TorchstoneError):
    """A checkpoint whose files are not what its manifest says."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified when it was opened."""

    path: Path
    step: int
    manifest: dict[str, Any]

    @property
    def config_hash(self) -> str:
        return str(self.manifest["config_hash"])

    @property
    def model(self) -> dict[str, Any]:
        """What rebuilds the model: target, class, config."""
        return dict(self.manifest.get("model") or {})

    def tensors(self) -> dict[str, Tensor]:
        """The model's state dict, tied entries under all their names."""
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(self.path / WEIGHTS)
        for name, kept in self.manifest.get("tied", {}).items():
            tensors[name] = tensors[kept]
        return tensors

    def state(self) -> dict[str, Any]:
        """Optimizer, progress, generators; never executes code from the file."""
        import torch

        state: dict[str, Any] = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        return state


def write_checkpoint(
    checkpoints: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    config_hash: str,
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Write `checkpoints/step-N`; a sound one that is already there stays: a step is saved once."""
    checkpoints = Path(checkpoints)
    final = checkpoints / f"step-{step}"
    if final.exists():
        try:
            return open_checkpoint(final).path
        except CheckpointDamaged:
            quarantine(final)
    partial = checkpoints / f".step-{step}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        _fill(partial, step, tensors, state, config_hash, model)
        partial.rename(final)
        flush(checkpoints)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left for the checkpoint of step {step}",
                where=str(checkpoints),
                why="the checkpoints before it are untouched",
                next="free some space and continue with --resume auto",
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _fill(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    config_hash: str,
    model: Mapping[str, Any] | None,
) -> None:
    import torch
    from safetensors.torch import save_file

    kept, tied = untie(tensors)
    save_file(kept, folder / WEIGHTS)
    torch.save(dict(state), folder / STATE)
    files = {}
    for name in (WEIGHTS, STATE):
        flush(folder / name)
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    write_json(
        folder / MANIFEST,
        {
            "schema": SCHEMA,
            "step": step,
            "config_hash": config_hash,
            "torch": str(torch.__version__),
            "model": dict(model or {}),
            "tied": tied,
            "files": files,
        },
    )


def untie(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each memory once: the tensors to write, and other name -> written name.

    Tensors that overlap without being equal (a view of a part) are written in full; the file format
    knows no shared memory.
    """
    import torch

    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and place in seen:
            tied[name] = seen[place]
            continue
        seen[place] = name
        storage = tensor.untyped_storage().data_ptr()
        shared = tensor.numel() > 0 and storage in storages
        storages.add(storage)
        kept[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
    return kept, tied


# --- reading ------------------------------------------------------------------------------------


def steps_of(checkpoints: Path) -> list[int]:
    """Steps that have a checkpoint (not yet verified), oldest first."""
    if not Path(checkpoints).is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in Path(checkpoints).iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify every file of a checkpoint against its manifest; `CheckpointDamaged` says what is wrong."""
    path = Path(path)
    problems = damage(path)
    if problems:
        raise CheckpointDamaged(
            f"checkpoint {path.name} cannot be used",
            where=str(path),
            why="; ".join(problems),
            next="continue with --resume auto, which takes the newest good one",
        )
    manifest = read_json(path / MANIFEST)
    return Checkpoint(path, int(manifest["step"]), manifest)


def damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint folder; empty if nothing is."""
    try:
        manifest = read_json(path / MANIFEST)
        schema, files = manifest["schema"], manifest["files"]
        expected = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
        int(manifest["step"])
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"]
    if schema != SCHEMA:
        return [f"{MANIFEST} has schema {schema!r}, not {SCHEMA!r}"]
    missing = {WEIGHTS, STATE} - expected.keys()
    if missing:
        return [f"{MANIFEST} does not list {', '.join(sorted(missing))}"]
    return [
        problem
        for name, (size, digest) in expected.items()
        if (problem := _file_damage(path / name, size, digest))
    ]


def _file_damage(file: Path, size: int, digest: str) -> str:
    if not file.is_file():
        return f"{file.name} is missing"
    if (found := file.stat().st_size) != size:
        return f"{file.name} has {found} bytes instead of {size}"
    if sha256(file) != digest:
        return f"{file.name} has other content than was written"
    return ""


def newest_good(checkpoints: Path, *, move_bad: bool = True) -> Checkpoint | None:
    """The newest checkpoint that verifies; bad ones met on the way go to `quarantine/`."""
    for step in reversed(steps_of(checkpoints)):
        path = Path(checkpoints) / f"step-{step}"
        try:
            return open_checkpoint(path)
        except CheckpointDamaged:
            if move_bad:
                quarantine(path)
    return None


def quarantine(path: Path) -> Path:
    """Move a checkpoint folder out of the way, keeping it for whoever wants to look."""
    ward = path.parent / QUARANTINE
    ward.mkdir(exist_ok=True)
    target, number = ward / path.name, 1
    while target.exists():
        number += 1
        target = ward / f"{path.name}.{number}"
    path.rename(target)
    flush(path.parent)
    return target


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint so that no reader meets the half of one: it loses its name first."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(checkpoints: Path) -> None:
    """Remove what killed writers left behind. Only whoever holds the run's lock may do this."""
    for leftover in Path(checkpoints).glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
