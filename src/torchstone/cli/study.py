"""`torchstone study`: list and show studies, prove every step of one before it costs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from torchstone.cli.check import Progress
from torchstone.cli.session import Json, Quiet, Verbose, console, print_json, start_logging
from torchstone.cli.study_choice import takes_study

if TYPE_CHECKING:
    from torchstone.study.run import StudyJob

app = typer.Typer(
    help="List and show studies; prove every step of one before it costs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list", epilog="Example:  torchstone study list")
def list_(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the studies of this folder and those that come with torchstone."""
    from torchstone.study.study_file import available, read_study

    found = []
    for name, path in available():
        study = read_study(path)
        size = len(study.steps) if study.kind == "ablation" else [len(each.values) for each in study.axes]
        found.append(
            {"name": name, "kind": study.kind, "size": size, "seeds": list(study.seeds), "path": str(path),
             "describe": study.describe}
        )  # fmt: skip
    if as_json:
        print_json({"schema": "torchstone.study-list/1", "studies": found})
        return
    width = max((len(str(each["name"])) for each in found), default=0)
    for each in found:
        print(each["name"] if quiet else f"{each['name']:<{width}}  {each['kind']:<9} {each['describe']}")


@app.command("show", epilog="Example:  torchstone study show widths --steps 0,1")
@takes_study
def show(
    job: StudyJob,
    cells: Annotated[bool, typer.Option("--cells", help="One line for each cell, with its id.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Show what a study comes to: arms, what they change, what they claim, what was dropped and why."""
    start_logging(quiet, verbose)
    from torchstone.study.run import planned

    plan = planned(job)
    if as_json:
        from torchstone.study.plan_info import plan_info

        print_json(plan_info(plan))
    elif quiet or cells:
        for each in plan.cells:
            print(each.id if quiet else f"{each.id}\t{each.name}")
    else:
        from torchstone.cli.study_view import plan_table

        console().print(plan_table(plan))


@app.command("check", epilog="Example:  torchstone study check widths --steps 1,2")
@takes_study
def check(
    job: StudyJob,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Prove every step: that it does what it claims, learns, leaks nothing and can be resumed. Costs seconds.

    Exit code 0: every claim holds; 1: one does not.
    """
    start_logging(quiet, verbose)
    from torchstone.study.run import check as prove

    show = Progress(quiet)
    with redirect_stdout(sys.stderr):  # what a model prints is not our result
        proof = prove(job, show.line)
    if verbose:
        import traceback

        for error in (each.error for each in proof.steps if each.error is not None):
            traceback.print_exception(error)
    if as_json:
        print_json(proof.to_dict())
    else:
        from torchstone.cli.study_view import proof_table

        console().print(proof_table(proof, job.study, quiet=quiet, everything=bool(verbose)))
    return 0 if proof.verdict in ("pass", "warn") else 1
