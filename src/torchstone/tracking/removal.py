"""Take runs out of the store and off the disk: first said, then done.

    doomed = removals(store, ["20260131-1200"])
    doomed[0].bytes, doomed[0].held_by          # what would go, and what speaks against it
    remove(store, doomed)

    for each in litter(store):                  # what no run needs
        discard(store, each)

A folder belongs to a run only if its `run.json` says so. Files go before the row: who is killed in between
leaves a row without a folder, which `litter` finds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select

from torchstone import _files
from torchstone._errors import RunLocked, UsageError
from torchstone.tracking import schema
from torchstone.tracking.checkpoint import remove_checkpoint
from torchstone.tracking.marks import PUBLISHED
from torchstone.tracking.rows import RunRow
from torchstone.tracking.run_folder import RunFolder, holder
from torchstone.tracking.store import Store

DOOMED = ".removed"
"""Ending of a folder that is being deleted."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One run, and what would go with it."""

    run_id: str
    name: str
    status: str
    folder: Path | None
    """None: it is gone already, or it never had one."""
    bytes: int
    held_by: tuple[str, ...]
    """Reasons to keep it: pages and registered models that rest on it."""

    def to_dict(self) -> dict[str, Any]:
        folder = None if self.folder is None else str(self.folder)
        return {**vars(self), "folder": folder, "held_by": list(self.held_by)}


@dataclass(frozen=True, kw_only=True)
class Litter:
    """Something that no run needs."""

    kind: Literal["row", "unfinished", "quarantined", "removed"]
    """A row whose folder is gone; what a killed writer left; a checkpoint that was found damaged; a folder
    whose removal was cut short."""
    run_id: str
    path: Path
    """Of a row: where its folder was."""
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path)}


def removals(store: Store, run_ids: Sequence[str]) -> list[Removal]:
    """What would go with these runs; RunLocked if a process is writing to one."""
    runs = [store.run(run_id) for run_id in dict.fromkeys(run_ids)]
    pages, models = store.events_of(PUBLISHED), _registered(store)
    found = []
    for run in runs:
        folder = folder_of(store, run)
        if folder is not None:
            _require_idle(folder)
        published = (f"the page {event.data['page']} rests on it" for event in pages.get(run.run_id, ()))
        found.append(
            Removal(
                run_id=run.run_id,
                name=run.name,
                status=run.status,
                folder=folder,
                bytes=0 if folder is None else size_of(folder),
                held_by=(*dict.fromkeys(published), *models.get(run.run_id, ())),
            )
        )
    return found


def remove(store: Store, doomed: Sequence[Removal], *, force: bool = False) -> None:
    """Delete folders, then rows. If something holds a run, UsageError and none goes, unless `force`."""
    held = [each for each in doomed if each.held_by]
    if held and not force:
        raise UsageError(
            f"{held[0].run_id} is needed, so nothing was removed",
            why="; ".join(held[0].held_by),
            next="--force removes it all the same",
        )
    for each in doomed:
        if each.folder is not None:
            _require_idle(each.folder)
            _delete(each.folder)
        store.remove_run(each.run_id)


def litter(store: Store) -> list[Litter]:
    """Oldest run first. The folder of a run that a process holds is not looked into."""
    found = [each for run in reversed(store.runs()) for each in _litter_of(store, run)]
    cut_short = sorted(store.folder.glob(f".*{DOOMED}")) if store.folder is not None else []
    return found + [Litter(kind="removed", run_id="", path=path, bytes=_size(path)) for path in cut_short]


def discard(store: Store, each: Litter) -> None:
    """Take it away; what a process has begun to use in the meantime stays."""
    if each.kind == "row":
        if folder_of(store, store.run(each.run_id)) is None:
            store.remove_run(each.run_id)
        return
    if each.kind != "removed":
        _require_idle(next(path for path in each.path.parents if RunFolder.exists(path)))
    if each.kind == "quarantined":
        remove_checkpoint(each.path)
    else:
        _unlink(each.path)


def folder_of(store: Store, run: RunRow) -> Path | None:
    """Where a run's folder is, as its row says or beside the store; None: nowhere."""
    if not run.run_dir:
        return None
    named = Path(run.run_dir)
    for path in (named, *([] if store.folder is None else [store.folder / named.name])):
        if RunFolder.exists(path) and RunFolder.open(path).run_id == run.run_id:
            return path.absolute()
    return None


def size_of(folder: Path) -> int:
    """Bytes of its files; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _litter_of(store: Store, run: RunRow) -> Iterator[Litter]:
    folder = folder_of(store, run)
    if folder is None:
        if run.run_dir and not Path(run.run_dir).exists():
            yield Litter(kind="row", run_id=run.run_id, path=Path(run.run_dir), bytes=0)
        return
    if holder(folder) is not None:
        return
    for path in sorted([*folder.glob(".*.partial"), *folder.glob("checkpoints/.*.partial")]):
        yield Litter(kind="unfinished", run_id=run.run_id, path=path, bytes=_size(path))
    for path in sorted(folder.glob("checkpoints/quarantine/[!.]*")):
        yield Litter(kind="quarantined", run_id=run.run_id, path=path, bytes=_size(path))


def _registered(store: Store) -> dict[str, list[str]]:
    """Names of registered models by the run they came from."""
    table = schema.registered_models
    rows = store.database.read(
        lambda connection: connection.execute(select(table.c.run_id, table.c.name, table.c.version)).all()
    )
    found: dict[str, list[str]] = {}
    for run_id, name, version in rows:
        found.setdefault(run_id, []).append(f"{name}@{version} is registered from it")
    return found


def _require_idle(folder: Path) -> None:
    process = holder(folder)
    if process is not None:
        raise RunLocked(f"process {process} is writing to this run", where=str(folder), next="stop it first")


def _delete(folder: Path) -> None:
    """It loses its name first, so that nobody meets the half of a run."""
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}{DOOMED}")
    folder.rename(doomed)
    _files.flush(doomed.parent)
    shutil.rmtree(doomed)


def _unlink(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return size_of(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size
