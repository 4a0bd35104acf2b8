"""`torchstone study run`, `status` and `report`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli import study
from torchstone.cli.session import Device, Json, Quiet, Verbose, Yes, console, print_json, start_logging
from torchstone.cli.study_choice import takes_study

if TYPE_CHECKING:
    from torchstone.study.run import StudyJob

app = study.app
Root = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the cells' runs; default: runs/NAME.")
]


@app.command("run", epilog="Example:  torchstone study run widths --jobs 2 --max-time 2h")
@takes_study
def run(
    job: StudyJob,
    run_dir: Root = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Cells at a time; default: one for each GPU.", min=1)
    ] = None,
    on: Annotated[
        str, typer.Option("--on", help="local, slurm, ray (this machine) or ray://HOST:PORT.")
    ] = "local",
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Save and stop after so long: 90, 30m, 2h.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", help="Save and stop when the study has cost this.", min=0)
    ] = None,
    cost_per_hour: Annotated[
        float | None, typer.Option("--cost-per-hour", help="What one cell costs in an hour.", min=0)
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Cells that failed are tried once more.")
    ] = False,
    proven: Annotated[
        bool, typer.Option("--proven", help="Spare the proof, for a study that was proven elsewhere.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prove, and list the cells that would be run.")
    ] = False,
    trust: Annotated[
        bool | None, typer.Option("--trust/--untrusted", help="Run the models' code here, or refuse.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Prove the study, then run every cell that is not done, each exactly once. Stop it whenever you like.

    The same command goes on where it was stopped or killed; two of them share the work.

    Exit code 0: every cell is done; 1: the proof or a cell failed; 75: the budget is spent; else a signal's.
    """
    start_logging(quiet, verbose)
    if (max_cost is None) != (cost_per_hour is None):
        raise UsageError("--max-cost and --cost-per-hour belong together", next="give both or none")
    from torchstone.cli.cells_view import CellsView, cells_table, ending_lines
    from torchstone.cli.train import seconds
    from torchstone.study.cells import Budget
    from torchstone.study.plan_info import cells_info
    from torchstone.study.run import How, planned
    from torchstone.study.run import run as run_study

    if dry_run or planned(job).base.train.dry_run:  # as make DRY_RUN=1 says it
        return _dry_run(job, as_json=as_json, quiet=quiet)
    budget = Budget(
        max_time_s=None if max_time is None else seconds(max_time),
        max_cost=max_cost,
        cost_per_hour=cost_per_hour,
    )
    how = How(
        root=run_dir, where=on, jobs=jobs, device=device, budget=budget, proven=proven,
        retry_failed=retry_failed, trust=trust,
    )  # fmt: skip
    out = console(stderr=True)
    with CellsView(quiet=quiet) as view, redirect_stdout(sys.stderr):  # what a model prints is no result
        outcome = run_study(
            job, how, progress=None if quiet else lambda line: out.print(line, markup=False), hear=view.hear
        )
    if as_json:
        print_json(cells_info(outcome))
    elif outcome.ending is None and outcome.proof is not None:
        from torchstone.cli.study_view import proof_table

        console().print(proof_table(outcome.proof, job.study, quiet=quiet))
        console().print("nothing was run: the proof does not hold")
    else:
        if not quiet:
            console().print(cells_table(outcome.states, outcome.plan.study.metric))
        for line in ending_lines(outcome, job.study):
            console().print(line, markup=False)
    return 1 if outcome.ending is None else outcome.ending.exit_code


@app.command("status", epilog="Example:  torchstone study status widths")
@takes_study
def status(
    job: StudyJob,
    run_dir: Root = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Show how far every cell of a study is."""
    start_logging(quiet, verbose)
    from torchstone.cli.cells_view import cells_table, ending_lines
    from torchstone.study.plan_info import cells_info
    from torchstone.study.run import stand

    outcome = stand(job, run_dir)
    if as_json:
        print_json(cells_info(outcome))
        return
    if not quiet:
        console().print(cells_table(outcome.states, outcome.plan.study.metric))
    for line in ending_lines(outcome, job.study):
        console().print(line, markup=False)


@app.command("report", epilog="Example:  torchstone study report widths")
@takes_study
def report(
    job: StudyJob,
    run_dir: Root = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for report.html, .md and .csv; default: that of the runs."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Compare the arms of a study: mean and spread over seeds, paired differences, quality against cost."""
    start_logging(quiet, verbose)
    from torchstone.study.run import planned, root_of
    from torchstone.study.run import report as found_by
    from torchstone.study.summary_page import header, report_info, rows, write_report

    with redirect_stdout(sys.stderr):
        found = found_by(job, run_dir)
    files = write_report(found, out or root_of(planned(job), run_dir))
    if as_json:
        print_json(report_info(found) | {"files": [str(each) for each in files]})
        return
    if not quiet:
        from rich.markup import escape
        from rich.table import Table

        table = Table(*header(found), box=None, pad_edge=False)
        for row in rows(found):
            table.add_row(*map(escape, row))
        console().print(table)
        for each in found.notes:
            console().print(f"note: {each}", markup=False)
    for file in files:
        print(file)


def _dry_run(job: StudyJob, *, as_json: bool, quiet: bool) -> int:
    from torchstone.cli.study_view import proof_table
    from torchstone.study.run import check, planned

    with redirect_stdout(sys.stderr):
        proof = check(job)
    if as_json:
        print_json(proof.to_dict())
    else:
        console().print(proof_table(proof, job.study, quiet=quiet))
        for each in planned(job).cells:
            print(f"{each.id}\t{each.name}")
    return 0 if proof.verdict in ("pass", "warn") else 1
