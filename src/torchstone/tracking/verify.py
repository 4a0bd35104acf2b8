"""Prove that checkpoints are what was written: every file of one, or of all of a run, hashed again.

Reads only. Loading a checkpoint verifies it too; this is for before a copy, after a move, or in a cron job.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import UsageError
from torchstone._files import read_json
from torchstone.tracking.checkpoint import MANIFEST, QUARANTINE, damage, steps_of

SCHEMA = "torchstone.verify/1"
POINTERS = ("latest", "best")


@dataclass(frozen=True, kw_only=True)
class VerifiedCheckpoint:
    """One checkpoint and what is wrong with it."""

    step: int | None
    """None where the manifest does not tell."""
    path: str
    status: str
    """pass or fail."""
    num_bytes: int
    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was verified, and the verdict: error where there was nothing to verify."""

    kind: str
    path: str
    verdict: str
    checkpoints: list[VerifiedCheckpoint]
    problems: list[str]
    """Of the run as a whole: pointers that name no good checkpoint, or nothing to verify."""
    newest_good: int | None
    """The step that a resume would go on from."""
    quarantined: int
    """Checkpoints that were found bad and set aside earlier."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.verify/1` object."""
        return {"schema": SCHEMA} | asdict(self)


def verify(path: str | Path) -> Verification:
    """A checkpoint folder or a run folder; UsageError if it is neither."""
    began, path = time.monotonic(), Path(path)
    kind = kind_of(path)
    folders = [path] if kind == "checkpoint" else _checkpoints_of(path)
    found = [checked for folder in folders if (checked := _check(folder)) is not None]
    problems = _pointer_problems(path, found) if kind == "run" else []
    if not found:
        problems.insert(0, "there is no checkpoint to verify")
    bad = problems or any(each.status == "fail" for each in found)
    ward = path / "checkpoints" / QUARANTINE
    return Verification(
        kind=kind,
        path=str(path),
        verdict="error" if not found else "fail" if bad else "pass",
        checkpoints=found,
        problems=problems,
        newest_good=max((each.step for each in found if each.status == "pass" and each.step), default=None),
        quarantined=len(list(ward.iterdir())) if kind == "run" and ward.is_dir() else 0,
        seconds=round(time.monotonic() - began, 3),
    )


def kind_of(path: Path) -> str:
    """checkpoint or run, by what lies in the folder."""
    if (path / "checkpoints").is_dir() or (path / "run.json").is_file():
        return "run"
    if (path / MANIFEST).is_file() or (path.is_dir() and path.name.startswith("step-")):
        return "checkpoint"
    raise UsageError(
        f"{path} is no checkpoint and no run",
        where=str(path.absolute()),
        why="a run folder holds run.json and checkpoints/, a checkpoint holds manifest.json"
        if path.is_dir()
        else "there is no such folder",
        next="torchstone runs list shows the runs that are known",
    )


def _checkpoints_of(run_dir: Path) -> list[Path]:
    checkpoints = run_dir / "checkpoints"
    return [checkpoints / f"step-{step}" for step in steps_of(checkpoints)]


def _check(folder: Path) -> VerifiedCheckpoint | None:
    """None where retention took the checkpoint away while it was read."""
    problems = damage(folder)
    if not folder.is_dir():
        return None
    try:
        step = int(read_json(folder / MANIFEST)["step"])
    except (OSError, ValueError, KeyError, TypeError):
        step = None
    return VerifiedCheckpoint(
        step=step,
        path=str(folder),
        status="fail" if problems else "pass",
        num_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        problems=problems,
    )


def _pointer_problems(run_dir: Path, found: list[VerifiedCheckpoint]) -> list[str]:
    good = {Path(each.path).name for each in found if each.status == "pass"}
    problems = []
    for name in POINTERS:
        try:
            named = (run_dir / name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
        if named not in good and (run_dir / "checkpoints" / named).name == named:
            problems.append(f"{name} names {named}, which is no good checkpoint")
    return problems
