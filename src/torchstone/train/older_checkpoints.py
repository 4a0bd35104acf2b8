"""Checkpoints of the systems before this one: `.pt` files, read without running anything that is in them.

    checkpoint_epoch0003_step000120_20250101_120000.pt      v4.0: `custom_state` holds the history of the run,
                                                            its name and its workspace
    the same without name and workspace                     v3.x: both are told by the path
    epoch_3.pt                                              before: metrics of one epoch, no history

Weights are mapped, not read: to list a folder of large files costs next to nothing.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone._errors import UntrustedCode
from torchstone.tracking.checkpoint import CheckpointDamaged

# What plain numpy values in `metrics` and `rng_state` need; building them runs nothing of the file's.
_ARRAY = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(
        type(np.dtype(name))
        for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    ),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True, kw_only=True)
class OlderCheckpoint:
    """What one file tells, its weights left where they are."""

    path: Path
    epoch: int
    global_step: int | None
    metrics: dict[str, float]
    """Of its own epoch."""
    history: list[dict[str, Any]] | None
    """One row per epoch up to its own; None in files that hold none."""
    run_name: str | None
    workspace_root: str | None
    timestamp: str | None


def read_older(path: Path) -> OlderCheckpoint:
    """Errors: UntrustedCode (it would run code), CheckpointDamaged (it cannot be read, or holds no epoch)."""
    content = _load(path)
    try:
        custom = content.get("custom_state") or {}
        history = custom.get("metrics_history")
        step, stamp = content.get("global_step"), content.get("timestamp")
        return OlderCheckpoint(
            path=path,
            epoch=int(content["epoch"]),
            global_step=None if step is None else int(step),
            metrics={str(name): plain(value) for name, value in (content.get("metrics") or {}).items()},
            history=None if history is None else rows_of(history),
            run_name=custom.get("run_name"),
            workspace_root=None if custom.get("workspace_root") is None else str(custom["workspace_root"]),
            timestamp=None if stamp is None else str(stamp),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointDamaged(
            f"{path.name} is not a training checkpoint",
            where=str(path),
            why=f"it should hold at least an epoch and metrics ({type(error).__name__}: {error})",
        ) from error


def _load(path: Path) -> Any:
    problem: Exception
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the form of old files
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the form before torch 1.6 cannot be mapped
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := imports_of(path, str(error)):
            raise UntrustedCode(
                f"{path.name} would run code when it is loaded",
                where=str(path),
                why=f"it wants to import {', '.join(wanted)}",
                next="nothing was run; if you trust its author, load it yourself and save plain tensors",
            ) from error
        problem = error
    except (
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
    ) as error:
        if isinstance(error, FileNotFoundError):
            raise
        problem = error
    raise CheckpointDamaged(
        f"{path.name} cannot be read",
        where=str(path),
        why=f"it was cut off or changed ({str(problem).partition(chr(10))[0][:120]})",
    ) from problem


def imports_of(path: Path, message: str) -> list[str]:
    """What a file asks for beyond tensors and numbers."""
    try:
        found = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a form that can be listed: the refusal itself names the first
        found = set(re.findall(r"GLOBAL ([\w.]+)", message))
    allowed = {
        each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__name__}" for each in _HARMLESS
    }
    return sorted(found - allowed)


def rows_of(history: Any) -> list[dict[str, Any]]:
    """A list of rows, or columns by name, as rows of plain values."""
    if isinstance(history, Mapping):
        columns = {str(name): list(values) for name, values in history.items()}
        length = max((len(values) for values in columns.values()), default=0)
        history = [
            {name: values[place] for name, values in columns.items() if place < len(values)}
            for place in range(length)
        ]
    if not isinstance(history, Sequence):
        raise TypeError(f"metrics_history is a {type(history).__name__}")
    return [{str(name): plain(value) for name, value in row.items()} for row in history]


def plain(value: Any) -> Any:
    """A number of Python, where a tensor or an array holds just one."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value
    if isinstance(value, np.ndarray | np.generic):
        return value.item() if value.size == 1 else value
    return value
