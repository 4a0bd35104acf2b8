"""Which checkpoints stay: the newest few, the best, and never less than one that is good."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torchstone._files import write_text
from torchstone.tracking.checkpoint import remove_checkpoint, steps_of


def to_remove(steps: Iterable[int], *, keep_last: int, best: int | None) -> list[int]:
    """Steps whose checkpoints may go, oldest first."""
    oldest_first = sorted(steps)
    kept = set(oldest_first[-max(keep_last, 1) :]) | {best}
    return [step for step in oldest_first if step not in kept]


def prune(checkpoints: Path, *, keep_last: int, best: int | None, just_written: int) -> list[int]:
    """Delete what may go. The checkpoint just written is sound, so at least one good one always remains."""
    older = [step for step in steps_of(checkpoints) if step <= just_written]
    removed = to_remove(older, keep_last=keep_last, best=best)
    for step in removed:
        remove_checkpoint(checkpoints / f"step-{step}")
    return removed


def point(run_dir: Path, name: str, step: int) -> None:
    """Write the pointer file `latest` or `best`."""
    write_text(run_dir / name, f"step-{step}\n")


def pointed(run_dir: Path, name: str) -> str | None:
    """What a pointer file says, if there is one."""
    try:
        return (run_dir / name).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
