"""The results of a run, from its checkpoints alone: after a crash, a lost notebook, on another machine.

    recover_training_results(checkpoint_dir="runs/first")["val_loss_history"]
    list_checkpoints("old/checkpoints")

Reads checkpoints of this house and the `.pt` files of the systems before it. Nothing is executed from a
file, weights are not loaded, and what is not known is None or absent, never zero.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import DataError, TorchstoneError, UntrustedCode, UsageError
from torchstone.tracking.checkpoint import CheckpointDamaged, open_checkpoint
from torchstone.train.found_checkpoints import (
    Found,
    NothingThere,
    look,
    newest_first,
    read_file,
    read_own,
    readable,
    told_apart,
)
from torchstone.train.result import TrainResult

log = logging.getLogger(__name__)

KEYS = (
    "metrics_summary",
    "best_epoch",
    "final_loss",
    "checkpoint_path",
    "training_time",
    "workspace_root",
    "run_name",
    "loss_history",
    "val_loss_history",
)


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What came of a run, as far as its checkpoints tell."""

    epochs: list[dict[str, Any]]
    best_epoch: int | None
    checkpoint_path: Path
    """The best one that can be used, else the newest."""
    training_time: float | None
    """Seconds; None where nothing tells."""
    workspace_root: Path
    run_name: str
    checkpoints: list[Found]
    """Newest first."""
    warnings: list[str]

    def results(self) -> dict[str, Any]:
        """The keys that a training result has."""
        same = TrainResult(run_id="", run_dir=str(self.workspace_root), status="", epochs=self.epochs)
        own = {name: getattr(self, name) for name in KEYS if hasattr(self, name)}
        losses = [row["train/loss"] for row in self.epochs if row.get("train/loss") is not None]
        own |= {
            "metrics_summary": same.metrics_summary,
            "final_loss": losses[-1] if losses else None,
            "loss_history": losses,
            "val_loss_history": [row["val/loss"] for row in self.epochs if row.get("val/loss") is not None],
        }
        return {name: own[name] for name in KEYS}

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.recover/1` object."""
        told = self.results() | {"metrics_summary": self.epochs}
        return {
            "schema": "torchstone.recover/1",
            **{name: str(value) if isinstance(value, Path) else value for name, value in told.items()},
            "checkpoints": [each.to_dict() for each in self.checkpoints],
            "warnings": self.warnings,
        }


def recover_training_results(
    checkpoint_path: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    monitor: str = "val_loss",
    mode: str = "min",
) -> dict[str, Any]:
    """Results of a run as `Trainer.train` gives them, from one checkpoint or a folder of them.

    Errors: ValueError (neither or both given, an unknown monitor, a file older than v4.0 without a history),
    FileNotFoundError, UntrustedCode (a file would run code), CheckpointDamaged.
    """
    recovered = recover(checkpoint_path, checkpoint_dir, monitor=monitor, mode=mode)
    for warning in recovered.warnings:
        log.warning("%s", warning)
    return recovered.results()


def list_checkpoints(checkpoint_dir: str | Path) -> list[dict[str, Any]]:
    """Checkpoints of a folder, newest first; files that cannot be used are left out with a message."""
    folder, problems = Path(checkpoint_dir), list[TorchstoneError]()
    found = look(folder, problems) if folder.is_dir() else []
    for problem in problems:
        log.warning("left out: %s", problem)
    return [each.to_dict() for each in newest_first(found)]


def recover(
    checkpoint_path: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    *,
    monitor: str = "val_loss",
    mode: str = "min",
) -> Recovered:
    """The same with everything that was noticed on the way."""
    if (checkpoint_path is None) == (checkpoint_dir is None):
        raise UsageError(
            "give either checkpoint_path or checkpoint_dir",
            next="recover_training_results(checkpoint_dir='runs/first')",
        )
    if mode not in ("min", "max"):
        raise UsageError(f"mode {mode!r} is neither min nor max", next="mode='min' for a loss")
    problems: list[TorchstoneError] = []
    if checkpoint_path is not None:
        chosen = _one(Path(checkpoint_path))
        found = [each for each in look(chosen.path.parent, problems) if each.run == chosen.run]
    else:
        chosen, found = None, look(Path(str(checkpoint_dir)), problems)
        if not found:
            raise _nothing(Path(str(checkpoint_dir)), problems)
    warnings = [f"left out: {problem.what}: {problem.why}" for problem in problems]
    newest = chosen or newest_first(found)[0]
    mine = newest_first([each for each in found if each.run == newest.run])
    if others := sorted({str(each.run_name) for each in found if each.run != newest.run}):
        warnings.append(f"other runs lie here too and are left out: {', '.join(others)}")
    epochs = _history(chosen, mine, newest, warnings)
    best = _best_row(epochs, monitor, mode, warnings)
    path = newest.path if chosen is not None else _checkpoint_of(best, mine, monitor, warnings)
    return Recovered(
        epochs=epochs,
        best_epoch=None if best is None else int(best["epoch"]),
        checkpoint_path=path,
        training_time=_seconds(newest, epochs),
        workspace_root=newest.workspace_root,
        run_name=newest.run_name or newest.workspace_root.name,
        checkpoints=mine,
        warnings=warnings,
    )


# --- choosing -----------------------------------------------------------------------------------


def _one(path: Path) -> Found:
    """The checkpoint that was asked for. If it cannot be used, the error names one that can."""
    if not path.exists():
        raise NothingThere(f"there is no checkpoint {path}", next="a step-N folder or a .pt file")
    try:
        if path.is_dir():
            found = read_own(path)
            open_checkpoint(path)
            return found
        neighbours = told_apart(readable(sorted(path.parent.glob("*.pt")), read_file, []))
        return next((each for each in neighbours if each.path == path), None) or read_file(path)
    except CheckpointDamaged as error:
        others = newest_first([each for each in look(path.parent, []) if each.path != path])
        if others:
            error.next = f"the next good one is {others[0].path}"
        else:
            error.next = "there is no other checkpoint beside it; look for a copy"
        raise


def _nothing(folder: Path, problems: list[TorchstoneError]) -> TorchstoneError:
    unsafe = [each for each in problems if isinstance(each, UntrustedCode)]
    if problems:
        return (unsafe or problems)[0]
    return NothingThere(
        "there is no checkpoint in this folder",
        where=str(folder),
        why="neither step-N folders nor .pt files",
        next="give the folder of a run, or of its checkpoints",
    )


# --- results ------------------------------------------------------------------------------------


def _history(
    chosen: Found | None, mine: Sequence[Found], newest: Found, warnings: list[str]
) -> list[dict[str, Any]]:
    """The longest history of the run, so that the best checkpoint does not stand for the whole."""
    known = [each for each in mine if each.history is not None]
    if known:
        longest = max(known, key=lambda each: (len(each.history or []), each is newest))
        if chosen is not None and longest.path != chosen.path and longest.history != chosen.history:
            warnings.append(f"the history goes on after this checkpoint; it is from {longest.path.name}")
        if newest.path.suffix == ".pt" and not newest.is_named:
            warnings.append(
                f"{newest.path.name} does not tell its run and workspace; both are inferred from the path"
            )
        return list(longest.history or [])
    if chosen is not None or len(mine) < 2:
        raise DataError(
            f"{newest.path.name} holds no history of its run",
            where=str(newest.path),
            why="it was created before v4.0, when a checkpoint kept the metrics of its own epoch only",
            next="with several of them, give their folder: torchstone recover " + str(newest.path.parent),
        )
    rows = [
        {"epoch": each.epoch, "train/loss": each.train_loss, "val/loss": each.val_loss} for each in mine[::-1]
    ]
    warnings.append(
        f"these checkpoints are from before v4.0 and hold no history; it is put together from "
        f"{len(rows)} of them, and epochs without a checkpoint are missing"
    )
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _best_row(
    epochs: list[dict[str, Any]], monitor: str, mode: str, warnings: list[str]
) -> dict[str, Any] | None:
    """The row that is best by `monitor`; a row without a number for it never is."""
    if not epochs:
        return None
    column = _column(epochs, monitor)
    if column is None and monitor.replace("_", "/", 1) == "val/loss":
        warnings.append("nothing was validated: the best epoch is the one of the lowest training loss")
        column = _column(epochs, "train_loss")
    if column is None:
        there = sorted({name for row in epochs for name in row if "/" in name})
        raise UsageError(f"no epoch has a value of {monitor!r}", next=f"monitor one of: {', '.join(there)}")
    scored = [row for row in epochs if _is_number(row.get(column))]
    if not scored:
        warnings.append(f"{column} is never a number")
        return None
    choose = min if mode == "min" else max
    return choose(scored, key=lambda row: row[column])


def _column(epochs: list[dict[str, Any]], monitor: str) -> str | None:
    names = {name for row in epochs for name in row}
    return next((name for name in (monitor, monitor.replace("_", "/", 1)) if name in names), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _checkpoint_of(
    best: dict[str, Any] | None, mine: Sequence[Found], monitor: str, warnings: list[str]
) -> Path:
    """Of the best epoch if it is still there and whole, else the newest that is."""
    wanted = [] if best is None else [each for each in mine if _belongs(each, best)]
    for each in [*wanted, *mine]:
        try:
            if each.path.is_dir():
                open_checkpoint(each.path)
        except CheckpointDamaged as problem:
            warnings.append(f"left out: {problem.what}: {problem.why}")
            continue
        if best is not None and each not in wanted:
            warnings.append(
                f"epoch {best['epoch']} is best by {monitor}, but its checkpoint is not there (any more); "
                f"{each.path.name} is the newest that is"
            )
        return each.path
    raise CheckpointDamaged("no checkpoint of this run can be used", why="; ".join(warnings))


def _belongs(found: Found, row: dict[str, Any]) -> bool:
    return found.global_step == row["step"] if "step" in row else found.epoch == row.get("epoch")


def _seconds(newest: Found, epochs: list[dict[str, Any]]) -> float | None:
    if newest.seconds is not None:
        return newest.seconds
    told = [row["epoch_duration"] for row in epochs if _is_number(row.get("epoch_duration"))]
    return math.fsum(told) if told else None
