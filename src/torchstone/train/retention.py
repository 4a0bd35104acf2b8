"""Which checkpoints stay: the newest few, the best few, and never less than one that is good."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchstone._files import read_json, write_text
from torchstone.tracking.checkpoint import MANIFEST, damage, remove_checkpoint, steps_of

log = logging.getLogger(__name__)
MONITOR = "val/loss"


def to_remove(steps: Iterable[int], *, keep_last: int, best: Iterable[int]) -> list[int]:
    """Steps whose checkpoints may go, oldest first."""
    oldest_first = sorted(steps)
    kept = set(oldest_first[-max(keep_last, 1) :]) | set(best)
    return [step for step in oldest_first if step not in kept]


def best_of(losses: Mapping[int, float], number: int) -> list[int]:
    """The `number` steps of lowest loss, best first; of equals the earlier. NaN is never best."""
    ranked = sorted((loss, step) for step, loss in losses.items() if not math.isnan(loss))
    return [step for _, step in ranked[:number]]


def validation_losses(checkpoints: Path) -> dict[int, float]:
    """Step -> monitored loss, of the checkpoints that were validated. Reads manifests only."""
    losses = {}
    for step in steps_of(checkpoints):
        try:
            losses[step] = float(read_json(checkpoints / f"step-{step}" / MANIFEST)["metrics"][MONITOR])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return losses


def prune(
    checkpoints: Path, *, keep_last: int, best: int | None, just_written: int, keep_best: int = 1
) -> list[int]:
    """Delete what may go; the steps that went. The checkpoint just written is sound.

    `best` stays, and so do the `keep_best` best among those that are there. Where a single checkpoint would
    remain it is read back first, since nothing could take its place.
    """
    older = [step for step in steps_of(checkpoints) if step <= just_written]
    losses = {step: loss for step, loss in validation_losses(checkpoints).items() if step in older}
    kept_best = {*best_of(losses, keep_best)} | (set() if best is None else {best})
    removed = to_remove(older, keep_last=keep_last, best=kept_best)
    left = [step for step in older if step not in removed]
    if removed and len(left) == 1 and (problems := damage(checkpoints / f"step-{left[0]}")):
        log.warning("older checkpoints stay, because step-%d cannot be read: %s", left[0], problems[0])
        return []
    for step in removed:
        remove_checkpoint(checkpoints / f"step-{step}")
    return removed


def point(run_dir: Path, name: str, step: int) -> None:
    """Write the pointer file `latest` or `best`, unless it says so already."""
    if pointed(run_dir, name) != f"step-{step}":
        write_text(run_dir / name, f"step-{step}\n")


def pointed(run_dir: Path, name: str) -> str | None:
    """What a pointer file says, if there is one."""
    try:
        return (run_dir / name).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def repair_pointers(run_dir: Path, *, latest: int, best: int | None) -> None:
    """Make both pointers name checkpoints that exist: a kill or a fall-back may have left them behind."""
    checkpoints = run_dir / "checkpoints"
    there = steps_of(checkpoints)
    if best not in there:
        best = next(iter(best_of(validation_losses(checkpoints), 1)), None)
    for name, step in (("latest", latest if latest in there else None), ("best", best)):
        if step is not None:
            point(run_dir, name, step)
        elif pointed(run_dir, name) is not None:
            (run_dir / name).unlink()
