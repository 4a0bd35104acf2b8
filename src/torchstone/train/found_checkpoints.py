"""What checkpoints tell of their runs without their weights: ours, and the `.pt` files of earlier systems."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torchstone._errors import TorchstoneError, UntrustedCode, UsageError
from torchstone._files import read_json, sha256
from torchstone.tracking.checkpoint import MANIFEST, OLDER_STATE, SCHEMA, STATE, CheckpointDamaged
from torchstone.tracking.run_folder import RunFolder
from torchstone.train.older_checkpoints import OlderCheckpoint, read_older
from torchstone.train.result import with_perplexity


class NothingThere(UsageError, FileNotFoundError):
    """No checkpoint where one was looked for."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One checkpoint: what can be told of it without its weights."""

    path: Path
    epoch: int | None
    global_step: int | None
    train_loss: float | None
    val_loss: float | None
    timestamp: str | None
    history: list[dict[str, Any]] | None = field(repr=False)
    run_name: str | None
    workspace_root: Path
    seconds: float | None
    is_named: bool
    """Whether it tells its run and workspace itself."""
    run: object = field(repr=False)
    """Equal for checkpoints of one run."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "filename": self.path.name,
            "epoch": self.epoch,
            "global_step": self.global_step,
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            "timestamp": self.timestamp,
        }


def look(folder: Path, problems: list[TorchstoneError]) -> list[Found]:
    """All checkpoints of a run folder, of its `checkpoints`, or of a folder of `.pt` files, in any order."""
    if not folder.is_dir():
        raise NothingThere(f"there is no folder {folder}", next="the folder of a run or of its checkpoints")
    inner = folder / "checkpoints"
    home = inner if inner.is_dir() else folder
    found = readable(sorted(home.glob("step-*")), read_own, problems)
    older = readable(sorted(home.glob("*.pt")), read_file, problems)
    return found + told_apart(older)


def readable(
    paths: Sequence[Path], read: Callable[[Path], Found], problems: list[TorchstoneError]
) -> list[Found]:
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except (CheckpointDamaged, UntrustedCode) as problem:
            problems.append(problem)
    return found


def newest_first(found: Sequence[Found]) -> list[Found]:
    return sorted(found, key=lambda each: (each.timestamp or "", each.global_step or 0, each.epoch or 0))[
        ::-1
    ]


# --- our own ------------------------------------------------------------------------------------


def read_own(path: Path) -> Found:
    """From the manifest and the small state file; sizes are compared, weights stay untouched."""
    try:
        manifest = read_json(path / MANIFEST)
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {manifest['schema']!r}")
        for name, file in manifest["files"].items():
            if (path / name).stat().st_size != file["bytes"]:
                raise ValueError(f"{name} has another size than was written")
        progress = _progress(path, manifest)
        epochs, metrics = list(progress["epochs"]), manifest.get("metrics") or {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointDamaged(
            f"checkpoint {path.name} cannot be used",
            where=str(path),
            why=str(error) or type(error).__name__,
            next="torchstone verify tells what is wrong with it",
        ) from error
    home = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    if _has_perplexity(manifest):
        epochs = [with_perplexity(row) for row in epochs]
    ends_here = bool(epochs) and epochs[-1]["step"] == progress["step"]
    validated = progress.get("evaluated_step") == progress["step"]
    metrics = metrics or (progress.get("last_validation") if validated else {}) or {}
    return Found(
        path=path,
        epoch=epochs[-1]["epoch"] if ends_here else len(epochs),
        global_step=int(progress["step"]),
        train_loss=epochs[-1]["train/loss"] if ends_here else progress.get("last_loss"),
        val_loss=metrics.get("val/loss"),
        timestamp=datetime.fromtimestamp((path / MANIFEST).stat().st_mtime, UTC).isoformat(),
        history=epochs,
        run_name=RunFolder.open(home).name if RunFolder.exists(home) else home.name,
        workspace_root=home,
        seconds=progress.get("seconds"),
        is_named=True,
        run=home.resolve(),
    )


def _progress(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    if OLDER_STATE in manifest["files"]:
        import torch

        state = torch.load(path / OLDER_STATE, map_location="cpu", weights_only=True, mmap=True)
        progress: dict[str, Any] = state["progress"]
        return progress
    from torchstone.tracking.state_file import unpack

    if sha256(path / STATE) != manifest["files"][STATE]["sha256"]:
        raise ValueError(f"{STATE} has other content than was written")
    return dict(unpack(read_json(path / STATE)["progress"], {}))


def _has_perplexity(manifest: dict[str, Any]) -> bool:
    from torchstone.train.losses import LOSSES

    kind = str((manifest.get("model") or {}).get("task"))
    return kind in LOSSES and LOSSES.get(kind).has_perplexity


# --- the systems before --------------------------------------------------------------------------


def read_file(path: Path) -> Found:
    old = read_older(path)
    history = old.history
    of_epoch = [row for row in history or [] if row.get("epoch") == old.epoch]
    row = of_epoch[-1] if of_epoch else {}
    told = {name.replace("_", "/", 1): value for name, value in old.metrics.items()} | row
    named = old.run_name is not None
    return Found(
        path=path,
        epoch=old.epoch,
        global_step=old.global_step,
        train_loss=told.get("train/loss"),
        val_loss=told.get("val/loss"),
        timestamp=old.timestamp,
        history=history,
        run_name=old.run_name if named else "_".join(path.stem.split("_")[:3]),
        workspace_root=Path(old.workspace_root) if old.workspace_root else _workspace(path),
        seconds=None,
        is_named=named,
        run=(old.run_name, old.workspace_root) if named else _signature(old),
    )


def _workspace(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _signature(old: OlderCheckpoint) -> object:
    """Files without a name belong together if their histories begin alike."""
    first = old.history[0] if old.history else None
    return None if first is None else tuple(sorted((name, str(value)) for name, value in first.items()))


def told_apart(found: list[Found]) -> list[Found]:
    """Runs that share a folder: where the epoch does not rise from one file to the next, a new one began."""
    runs: dict[object, tuple[int, int]] = {}
    apart = []
    for each in newest_first(found)[::-1]:
        number, last = runs.get(each.run, (0, -1))
        epoch = -1 if each.epoch is None else each.epoch
        if epoch <= last:
            number += 1
        runs[each.run] = (number, epoch)
        apart.append(dataclasses.replace(each, run=(each.run, number)))
    return apart
