"""The arms of a claim: which runs they are, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torchstone._errors import UsageError
from torchstone.study.claim.from_store import find_run, find_runs, read_run
from torchstone.study.claim.from_wandb import read_export
from torchstone.study.claim.recorded import Reading, RecordedRun
from torchstone.study.claim.terms import ArmSource, Claim, Selection, StatedRun
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store, default_store


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison."""

    name: str
    runs: tuple[RecordedRun, ...]
    where: str
    """file:line of the claim."""


def resolve_arms(claim: Claim, store: str | Path | None = None) -> tuple[Arm, ...]:
    """Every arm with its runs, the baseline first; an arm without runs is a UsageError."""
    reading = Reading(metric=claim.metric, direction=claim.direction, at=claim.at)
    return tuple(_arm(source, claim, reading, store) for source in claim.arms)


def _arm(source: ArmSource, claim: Claim, reading: Reading, store: str | Path | None) -> Arm:
    found = [_stated(each) for each in source.stated]
    for selection in source.selections:
        try:
            found += _selected(selection, claim, reading, store)
        except UsageError as error:
            error.where = f"{source.where} ({selection}{f', {error.where}' if error.where else ''})"
            raise
    said = source.said
    runs = {
        run.run_id: replace(
            run,
            statements={
                name: (*run.statements.get(name, ()), *said.get(name, ()))
                for name in {**run.statements, **said}
            },
        )
        for run in found
    }
    return Arm(name=source.name, runs=tuple(runs.values()), where=source.where)


def _selected(
    selection: Selection, claim: Claim, reading: Reading, where: str | Path | None
) -> Iterator[RecordedRun]:
    if selection.origin == "wandb":
        path = claim.path.parent / selection.place
        yield from read_export(path, selection.wanted, reading, claim.wandb)
        return
    is_folder = selection.origin == "run" and RunFolder.exists(selection.place)
    with Store.open(where or (default_store(selection.place) if is_folder else None), readonly=True) as store:
        if selection.origin == "run":
            yield read_run(store, find_run(store, selection.place), reading)
        else:
            for run in find_runs(store, selection.wanted):
                yield read_run(store, run, reading)


def _stated(run: StatedRun) -> RecordedRun:
    return RecordedRun(
        run_id=run.id, origin="claim", where=run.where, statements=run.statements, config=run.config
    )
