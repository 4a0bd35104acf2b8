"""Where a run lives, and whether it starts, goes on or is over already. Looks, and changes nothing.

resume="never"   a new run; a folder that holds one is refused
resume="auto"    the folder's run goes on from its newest good checkpoint
resume=PATH      the run goes on from this checkpoint
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchstone._errors import ConfigError, RunLocked, UsageError
from torchstone._files import read_json
from torchstone.config.resolve import Resolved, differences
from torchstone.tracking.checkpoint import (
    Checkpoint,
    newest_good,
    open_checkpoint,
    quarantine,
    steps_of,
)
from torchstone.tracking.run_folder import RunFolder, holder
from torchstone.train.config import SECTIONS
from torchstone.train.result import TrainResult

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of a run and how it is entered."""

    run_dir: Path | None
    """None: a new folder under runs/."""
    exists: bool = False
    checkpoint: Path | None = None
    """A checkpoint that was asked for by name."""
    finished: TrainResult | None = None
    """The run is over; this is what came of it."""


def recorded(run_dir: str | Path | None, resume: str | Path) -> Resolved | None:
    """The configuration of the run that would be continued; None where there is none."""
    if str(resume) == "never":
        return None
    home = Path(run_dir) if str(resume) == "auto" and run_dir is not None else _home_of(Path(resume))
    if not RunFolder.exists(home) or not (home / "config.json").is_file():
        return None
    return Resolved.from_json(SECTIONS, RunFolder.open(home).read_config())


def _home_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, or of itself."""
    return checkpoint if (checkpoint / "checkpoints").is_dir() else checkpoint.resolve().parent.parent


def find_place(run_dir: str | Path | None, resume: str | Path, config: Resolved) -> Place:
    """Decide, or refuse before anything is touched."""
    folder = None if run_dir is None else Path(run_dir)
    if str(resume) == "never":
        if folder is not None and RunFolder.exists(folder):
            raise UsageError(
                "this folder holds a run already",
                where=str(folder),
                why=f"its status is {RunFolder.open(folder).info['status']}",
                next="continue it with --resume auto, or choose another --run-dir",
            )
        return Place(run_dir=folder)
    if str(resume) == "auto":
        if folder is None:
            raise UsageError(
                "--resume auto does not know which run to continue",
                next="name its folder with --run-dir",
            )
        if not RunFolder.exists(folder):
            return Place(run_dir=folder)
        _refuse_locked(folder)
        _require_same_config(folder, config)
        return Place(run_dir=folder, exists=True, finished=_finished(folder))
    return _place_of_checkpoint(Path(resume), folder, config)


def _place_of_checkpoint(path: Path, folder: Path | None, config: Resolved) -> Place:
    if (path / "checkpoints").is_dir():
        found = newest_good(path / "checkpoints", move_bad=False)
        if found is None:
            raise UsageError("this run has no checkpoint that can be used", where=str(path))
        path = found.path
    if not path.is_dir():
        raise UsageError(
            f"there is no checkpoint {path}", next="--resume auto, never, or the folder of a checkpoint"
        )
    open_checkpoint(path)
    home = path.resolve().parent.parent
    if RunFolder.exists(home):
        _require_same_config(home, config)
    if folder is None or folder.resolve() == home:
        _refuse_locked(home)
        return Place(
            run_dir=home if folder is None else folder, exists=RunFolder.exists(home), checkpoint=path
        )
    if RunFolder.exists(folder):
        raise UsageError("this folder holds another run", where=str(folder), next="choose another --run-dir")
    return Place(run_dir=folder, checkpoint=path)


def choose_checkpoint(place: Place, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to go on from. Only for the holder of the run's lock: bad ones are moved away."""
    if place.checkpoint is None:
        return newest_good(folder.checkpoints) if place.exists else None
    chosen = open_checkpoint(place.checkpoint)
    if place.exists:
        # What came after it belongs to a branch that is given up now.
        for step in steps_of(folder.checkpoints):
            if step > chosen.step:
                quarantine(folder.checkpoints / f"step-{step}")
    return chosen


def _require_same_config(folder: Path, config: Resolved) -> None:
    if not (folder / "config.json").is_file():
        return  # killed before it had begun
    before = Resolved.from_json(SECTIONS, RunFolder.open(folder).read_config())
    changed = [each for each in differences(before, config) if each.changes_result]
    if not changed:
        return
    lines = [
        f"{each.key} was {each.left.value if each.left else None!r}, "
        f"is now {each.right.value if each.right else None!r}"
        + (f" ({each.right.source})" if each.right else "")
        for each in changed
    ]
    raise ConfigError(
        "the configuration is not the one that this run was started with",
        where=str(folder),
        why="; ".join(lines),
        next="take the changes back to continue it, or start a new run in another --run-dir",
    )


def _refuse_locked(folder: Path) -> None:
    process = holder(folder)
    if process is not None:
        raise RunLocked(
            f"process {process} is writing to this run",
            where=str(folder),
            next="wait for it or stop it; another --run-dir starts a run beside it",
        )


def _finished(folder: Path) -> TrainResult | None:
    if RunFolder.open(folder).info["status"] != "completed" or not (folder / REPORT).is_file():
        return None
    result = TrainResult.from_dict(read_json(folder / REPORT))
    result.warnings.append("this run was complete already; nothing was trained")
    return result
