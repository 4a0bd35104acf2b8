"""`torchstone runs`: what is in the experiment store, and marks on it. Only `tag` and `invalidate` write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Verbose,
    Where,
    console,
    open_store,
    print_json,
    start_logging,
)

if TYPE_CHECKING:
    from torchstone.tracking.store import Store

app = typer.Typer(help="List, show, compare and mark runs; find the best one.", no_args_is_help=True)

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run id, the unique beginning of one, or a run folder.")
]


@app.command("list")
def list_runs(
    kind: Annotated[str | None, typer.Option("--kind", help="Only runs of this kind: train, check.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many, newest first.", min=1)] = 20,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List runs, newest first.

    Example:  torchstone runs list --kind train --limit 5
    """
    start_logging(quiet, verbose)
    from torchstone.report.run_info import live_status

    with open_store(store) as opened:
        runs = opened.runs(kind=kind, limit=limit)
        last = opened.last_values([run.run_id for run in runs])
    if as_json:
        records = [
            _without_config(run.to_dict())
            | {"status": live_status(run), "last": {key: row.value for key, row in last[run.run_id].items()}}
            for run in runs
        ]
        print_json({"schema": "torchstone.runs/1", "runs": records})
        return 0
    from torchstone.report.run_table import runs_table

    console().print(runs_table(runs, last) if runs else "no runs yet; try:  torchstone train zoo:gpt-nano")
    return 0


@app.command("show")
def show(
    run: Run, store: Where = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Show one run: facts, curves, its check report.

    Example:  torchstone runs show 20260131
    """
    start_logging(quiet, verbose)
    from torchstone.report.run_info import run_info

    run_id, store = located(run, store)
    with open_store(store) as opened:
        info = run_info(opened, run_id)
        report = opened.check_report(info.run.run_id)
    if as_json:
        print_json(info.to_dict() | {"checks": report})
        return 0
    from torchstone.report.check_table import check_table
    from torchstone.report.run_table import run_card

    screen = console()
    screen.print(run_card(info))
    if report:
        screen.print(check_table(report))
    return 0


@app.command("compare")
def compare_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two or more runs.")],
    regression: Annotated[
        bool, typer.Option("--regression", help="Score both again and fail if the second is worse.")
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="With --regression: score on this source.")
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", help="With --regression: score so many examples.", min=1)
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option("--false-alarms", help="With --regression: rate of false alarms; default 0.05."),
    ] = None,
    device: Device = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Compare runs: what differs in their configuration, and where each metric ended.

    With --regression the second is held against the first, example by example: exit code 1 if it is worse.

    Example:  torchstone runs compare 20260131-1200 20260131-1215

    Example:  torchstone runs compare runs/before runs/after --regression
    """
    start_logging(quiet, verbose)
    if len(runs) < 2:
        raise UsageError("one run cannot be compared", next="name two or more: torchstone runs compare A B")
    if regression:
        from torchstone.cli.regression_view import show_regression

        folders = [folder_named(run, store) for run in runs]
        return show_regression(
            folders, data=data, max_samples=max_samples, false_alarms=false_alarms, device=device,
            as_json=as_json, quiet=quiet,
        )  # fmt: skip
    only_there = {"--data": data, "--max-samples": max_samples, "--false-alarms": false_alarms,
                  "--device": device}  # fmt: skip
    if useless := [name for name, value in only_there.items() if value is not None]:
        raise UsageError(f"{', '.join(useless)} has no effect without --regression")
    from torchstone.report.compare import compare

    run_ids, store = of_one_store(runs, store)
    with open_store(store) as opened:
        comparison = compare(opened, run_ids)
    if as_json:
        print_json(comparison.to_dict())
        return 0
    from torchstone.report.run_table import comparison_table

    console().print(comparison_table(comparison))
    return 0


@app.command("probes")
def probes(
    run: Run,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="PNG", help="Where to draw them; default: no picture, only a table."),
    ] = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show what was measured inside the model: gates, entropy and reciprocity of its attention, over steps.

    Example:  torchstone runs probes 20260131 --out gates.png
    """
    start_logging(quiet, verbose)
    from torchstone.report.probes_info import probe_panels, probes_dict
    from torchstone.report.run_info import run_info

    run_id, store = located(run, store)
    with open_store(store) as opened:
        info = run_info(opened, run_id)
    panels = probe_panels(info)
    if not panels:
        raise UsageError(
            f"nothing was measured inside {info.run.run_id}",
            why="its model has no learned gates or was never validated, and tracking.attention_samples is 0",
            next="torchstone train TARGET --set tracking.attention_samples=2",
        )
    if out is not None:
        from pathlib import Path

        from torchstone.report.figure_file import write_png
        from torchstone.report.probes import probes_figure

        write_png(probes_figure(info.run.name, panels), Path(out))
    if as_json:
        print_json(probes_dict(info, panels, out))
        return 0
    from torchstone.report.run_table import probes_table

    console().print(probes_table(panels))
    if out is not None:
        console().print(f"drawn in {out}", markup=False)
    return 0


@app.command("best")
def best(
    metric: Annotated[str, typer.Option("--metric", help="The metric that decides.")] = "val/loss",
    mode: Annotated[
        str | None, typer.Option("--mode", help="min or max; default: by the kind of metric.")
    ] = None,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Find the run with the best value of a metric at any step.

    Example:  torchstone runs best --metric val/accuracy --mode max
    """
    start_logging(quiet, verbose)
    if mode not in (None, "min", "max"):
        raise UsageError(f"--mode {mode!r} is neither min nor max", next="--mode min or --mode max")
    from torchstone.report.compare import best_run
    from torchstone.report.numbers import number

    with open_store(store) as opened:
        found = best_run(opened, metric, "max" if mode == "max" else "min" if mode else None)
    if as_json:
        print_json({"schema": "torchstone.best/1", **found})
    else:
        value, step = number(found["value"]), number(found["step"])
        console().print(f"{found['run_id']}  {metric} {value} at step {step}", markup=False)
    return 0


@app.command("tag")
def tag(
    run: Run,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Words to find the run by.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tags away.")] = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Tag a run, so that a claim can name it as `runs:tag=TAG`.

    Example:  torchstone runs tag 20260131-1200 bitter7-50
    """
    start_logging(quiet, verbose)
    from torchstone.tracking.marks import add_tags, remove_tags

    run_id, store = located(run, store)
    with open_store(store, readonly=False) as opened:
        run_id = opened.run(run_id).run_id
        (remove_tags if remove else add_tags)(opened, run_id, tags)
        _show_marks(opened, run_id, as_json)
    return 0


@app.command("invalidate")
def invalidate_run(
    run: Run,
    why: Annotated[str, typer.Option("--why", help="What is wrong with the run.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take it back; --why says what was mistaken.")] = False,
    store: Where = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Say that a run must not be relied on; claims that rest on it no longer hold.

    Example:  torchstone runs invalidate 20260131-1200 --why "validation text was in the training data"
    """
    start_logging(quiet, verbose)
    from torchstone.study.claim.seal import judge_again
    from torchstone.tracking.marks import invalidate, revalidate

    run_id, store = located(run, store)
    with open_store(store, readonly=False) as opened:
        run_id = opened.run(run_id).run_id
        (revalidate if undo else invalidate)(opened, run_id, why)
        pages = judge_again(opened, run_id)
        _show_marks(opened, run_id, as_json, pages=[each.to_dict() for each in pages])
    for each in () if as_json else pages:
        console().print(f"{each.status}: {each.page} said {each.was}, now {each.verdict}", soft_wrap=True)
    return 0


def _show_marks(store: Store, run_id: str, as_json: bool, **more: Any) -> None:
    from torchstone.tracking.marks import marks

    now = marks(store, [run_id])[run_id]
    tags = sorted(now.tags)
    if as_json:
        answer = {"schema": "torchstone.marks/1", "run_id": run_id, "tags": tags, "invalid": now.invalid}
        print_json(answer | more)
        return
    invalid = f"; not to be relied on: {now.invalid}" if now.invalid else ""
    console().print(f"{run_id}  tags: {', '.join(tags) or 'none'}{invalid}", markup=False)


def located(run: str, store: str | None) -> tuple[str, str | None]:
    """The run's id and its store; a run folder knows both."""
    from pathlib import Path

    from torchstone.tracking.run_folder import RunFolder
    from torchstone.tracking.store import default_store

    if not Path(run).is_dir():
        return run, store
    return RunFolder.open(run).run_id, store or default_store(run)


def of_one_store(runs: list[str], store: str | None) -> tuple[list[str], str | None]:
    """The ids of several runs and the store that they share."""
    found = [located(run, store) for run in runs]
    stores = {where for _, where in found}
    if len(stores) > 1:
        raise UsageError(
            "these runs are in different stores",
            where=", ".join(str(each) for each in stores),
            next="name runs whose folders lie side by side",
        )
    return [run_id for run_id, _ in found], stores.pop() if stores else store


def folder_named(run: str, store: str | None) -> str:
    """The run folder, or the checkpoint, that is meant."""
    from pathlib import Path

    if Path(run).is_dir():
        return run
    with open_store(store) as opened:
        found = opened.run(run)
    if not Path(found.run_dir).is_dir():
        raise UsageError(f"the folder of {found.run_id} is gone", where=found.run_dir)
    return found.run_dir


def _without_config(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "config"}
