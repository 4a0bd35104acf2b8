"""Tensors that are split over processes, inside the folder of a checkpoint.

    checkpoints/step-700/shards/*.safetensors     one file per rank, its slices with their offsets

Written by all ranks together through torch.distributed.checkpoint, and read by any number of them: each
reads only what it holds. One process alone reads them in full. Nothing in them is a pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
from torch import Tensor
from torch.distributed.tensor import Shard, empty

from torchstone._files import flush, sha256

dcp: Any = torch.distributed.checkpoint  # its public names are not declared as such


@dataclass(frozen=True)
class Shards:
    """Files of split tensors, written and not yet part of a checkpoint."""

    folder: Path
    files: Mapping[str, dict[str, Any]]
    """Size and sha256 by name."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor], rank: int) -> dict[str, dict[str, Any]]:
    """Write the slices of every rank; all ranks call this together. Size and sha256 of this rank's file."""
    with _quiet():
        dcp.save(
            dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        )
    written = {}
    flush(folder)
    for file in sorted(folder.glob(f"shard-{rank + 1:05d}-*.safetensors")):
        flush(file)
        written[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    return written


def read_shards(folder: Path, prefix: str) -> dict[str, Tensor]:
    """All tensors whose name begins with `prefix`, put together in this process; names without the prefix."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    sizes = {
        name: (found.size, found.properties.dtype)
        for name, found in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(prefix)
    }
    tensors: dict[str, Any] = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes.items()}
    with _quiet():
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def read_split(folder: Path, prefix: str, mesh: Any) -> dict[str, Tensor]:
    """As `read_shards`, each tensor split over `mesh`; all ranks call this together."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    tensors: dict[str, Any] = {
        name: empty(*found.size, dtype=found.properties.dtype, device_mesh=mesh, placements=[Shard(0)])
        for name, found in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(prefix)
    }
    with _quiet():
        dcp.load(tensors, storage_reader=reader)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on working alone, which is meant
        yield
