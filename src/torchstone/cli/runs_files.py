"""`torchstone runs export | import | sync | rm | gc | dashboard`: what comes and goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli.runs import Run, app, folder_named, located, of_one_store
from torchstone.cli.session import (
    Json,
    Quiet,
    Verbose,
    Where,
    Yes,
    console,
    open_store,
    print_json,
    split_commas,
    start_logging,
)

if TYPE_CHECKING:
    from torchstone.tracking.removal import Litter, Removal

__all__ = ["app"]

Some = Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="Run ids or run folders.")]
Many = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids or run folders, of one store.")]


@app.command("export")
def export_rows(
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Ends in .csv, .jsonl or .parquet.")],
    runs: Some = None,
    keys: Annotated[
        str | None, typer.Option("--keys", help="Only these metrics, comma-separated; default: all.")
    ] = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Write metric rows of runs, of all without RUN, as CSV, JSON lines or Parquet.

    Example:  torchstone runs export --out rows.csv

    Example:  torchstone runs export 20260131-1200 --keys train/loss,val/loss --out losses.parquet
    """
    start_logging(quiet, verbose)
    from pathlib import Path

    from torchstone.report.rows_file import write_rows

    ids, store = of_one_store(runs or [], store)
    with open_store(store) as opened:
        chosen = [opened.run(run_id) for run_id in ids] if ids else list(reversed(opened.runs()))
        count = write_rows(opened, chosen, Path(out), keys=split_commas(keys))
    if as_json:
        answer = {"schema": "torchstone.runs-export/1", "file": out, "runs": len(chosen), "rows": count}
        print_json(answer)
    elif not quiet:
        console().print(f"{count:,} rows of {len(chosen)} runs in {out}", markup=False, soft_wrap=True)
    return 0


@app.command("import")
def import_runs(
    tracker: Annotated[str, typer.Argument(metavar="TRACKER", help="wandb, tensorboard, mlflow or trackio.")],
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="Offline folder, event files, tracking address or file.")
    ],
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Read runs that another tracker holds into the store; an import can be repeated.

    Example:  torchstone runs import wandb old/wandb

    Example:  torchstone runs import mlflow sqlite:///mlflow.db
    """
    start_logging(quiet, verbose)
    from torchstone.tracking.imports import IMPORTS, keep
    from torchstone.tracking.store import Store

    found = IMPORTS.get(tracker)
    told = []
    with Store.open(store) as opened:
        for run in found.read(place):
            told.append({"run_id": run.run_id, "name": run.name, "rows": keep(opened, run)})
            if not (as_json or quiet):
                console().print(f"{run.run_id}  {run.name}: {len(run.rows):,} rows", markup=False)
    if as_json:
        print_json({"schema": "torchstone.runs-import/1", "tracker": tracker, "runs": told})
    elif not told:
        console().print("no run is there")
    return 0


@app.command("sync")
def sync(
    run: Run,
    to: Annotated[
        str | None,
        typer.Option("--to", help="wandb, trackio, tensorboard, mlflow; default: those that the run had."),
    ] = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Send a service the rows of a run that it lacks. Exit code 75 if it does not take them.

    Example:  torchstone runs sync 20260131-1200 --to wandb
    """
    start_logging(quiet, verbose)
    from torchstone.tracking.replica import catch_up, replicas_of
    from torchstone.tracking.run_folder import RunFolder

    folder = RunFolder.open(folder_named(run, store))
    run_id, store = located(str(folder.path), store)
    names = split_commas(to) or replicas_of(folder)
    if not names:
        raise UsageError("this run was copied nowhere", where=str(folder.path), next="say where: --to wandb")
    with folder.locked(), open_store(store) as opened:
        reports = [catch_up(opened, folder, name) for name in names]
    if as_json:
        told = [each.to_dict() for each in reports]
        print_json({"schema": "torchstone.runs-sync/1", "run_id": run_id, "sinks": told})
    else:
        for each in reports:
            why = f": {each.error}" if each.error else ""
            console().print(
                f"{each.sink}: {each.sent:,} rows sent, {each.waiting:,} waiting{why}", markup=False
            )
    return 75 if any(each.waiting for each in reports) else 0


@app.command("rm")
def remove_runs(
    runs: Many,
    force: Annotated[
        bool, typer.Option("--force", help="Remove runs that a page or a registered model rests on, too.")
    ] = False,
    yes: Yes = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Say what would be removed with these runs; with --yes remove their folders and their rows.

    Example:  torchstone runs rm 20260131-1200 20260131-1215

    Example:  torchstone runs rm runs/failed --yes
    """
    start_logging(quiet, verbose)
    from torchstone.tracking.removal import removals, remove

    ids, store = of_one_store(runs, store)
    with open_store(store, readonly=not yes) as opened:
        doomed = removals(opened, ids)
        if yes:
            remove(opened, doomed, force=force)
    if as_json:
        told = [each.to_dict() for each in doomed]
        print_json({"schema": "torchstone.runs-rm/1", "removed": yes, "runs": told})
        return 0
    for each in doomed:
        console().print(_line(each, "removed" if yes else "would remove"), markup=False, soft_wrap=True)
    if not yes:
        console().print("nothing was removed; --yes removes them")
    return 0


@app.command("gc")
def collect_garbage(
    yes: Yes = False, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Find what no run needs: rows without a folder, unfinished files, damaged checkpoints; --yes removes it.

    Example:  torchstone runs gc

    Example:  torchstone runs gc --yes
    """
    start_logging(quiet, verbose)
    from torchstone.tracking.removal import discard, litter

    with open_store(store, readonly=not yes) as opened:
        found = litter(opened)
        for each in found if yes else ():
            discard(opened, each)
    if as_json:
        told = [each.to_dict() for each in found]
        print_json({"schema": "torchstone.runs-gc/1", "removed": yes, "litter": told})
        return 0
    for each in found:
        console().print(
            _litter_line(each, "removed" if yes else "would remove"), markup=False, soft_wrap=True
        )
    if not found:
        console().print("nothing to remove: each file belongs to a run, and each run has its folder")
    elif not yes:
        console().print("nothing was removed; --yes removes it")
    return 0


@app.command("dashboard")
def dashboard(
    run: Run,
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Ends in .png, .svg, .pdf or .html.")],
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Draw the dashboard of a run anew: six panels, and four on drift if its model was watched since.

    Example:  torchstone runs dashboard 20260131-1200 --out run.pdf
    """
    start_logging(quiet, verbose)
    from pathlib import Path

    from torchstone.report.dashboard import write_dashboard_file
    from torchstone.report.drift_info import drift_info

    run_id, store = located(run, store)
    with open_store(store) as opened:
        path, drift = write_dashboard_file(opened, run_id, Path(out)), drift_info(opened, run_id)
    if as_json:
        told = {"run_id": run_id, "path": str(path), "drift": None if drift is None else drift.status}
        print_json({"schema": "torchstone.dashboard/1", **told})
    else:
        watched = "nobody watched its data" if drift is None else drift.sentence
        console().print(f"drawn in {path}; {watched}", markup=False, soft_wrap=True)
    return 0


def _line(each: Removal, verb: str) -> str:
    where = "no folder" if each.folder is None else f"{each.folder}, {each.bytes / 1e6:,.1f} MB"
    held = f"; but {'; '.join(each.held_by)}" if each.held_by else ""
    return f"{verb} {each.run_id}  {each.status}, {where}{held}"


def _litter_line(each: Litter, verb: str) -> str:
    what = {
        "row": f"the row of {each.run_id}, whose folder is gone",
        "unfinished": "what a killed process left",
        "quarantined": "a damaged checkpoint",
        "removed": "the rest of a removal",
    }[each.kind]
    return f"{verb} {what}:  {each.path}, {each.bytes / 1e6:,.1f} MB"
