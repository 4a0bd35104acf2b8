"""`torchstone study`: list and show studies, prove every step of one before it costs."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli.check import Progress
from torchstone.cli.session import Json, Quiet, Verbose, console, print_json, split_commas, start_logging

if TYPE_CHECKING:
    from torchstone.study.run import StudyJob

app = typer.Typer(
    help="List and show studies; prove every step of one before it costs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A study by name, or the path of a .toml file.")]
NameOrConfigured = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="A study by name or path; default: study.name of --config or .config."
    ),
]
Only = Annotated[
    str | None,
    typer.Option("--only", help="Ids of arms (with * and ?), cells, or axis=value; comma separated."),
]
Steps = Annotated[str | None, typer.Option("--steps", help="Only these steps: 0,5,7.")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Only these seeds of the study: 1,2.")]
File = Annotated[
    Path | None, typer.Option("--config", help="Start from this file of knobs, not from the study's base.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one knob for all arms; may be repeated."),
]


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
def show(
    name: NameOrConfigured = None,
    only: Only = None,
    steps: Steps = None,
    seeds: Seeds = None,
    config: File = None,
    set_: Set = None,
    cells: Annotated[bool, typer.Option("--cells", help="One line for each cell, with its id.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Show what a study comes to: arms, what they change, what they claim, what was dropped and why."""
    start_logging(quiet, verbose)
    from torchstone.study.run import planned

    job = study_job(name, only=only, steps=steps, seeds=seeds, config=config, assignments=set_)
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
def check(
    name: NameOrConfigured = None,
    only: Only = None,
    steps: Steps = None,
    config: File = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Prove every step: that it does what it claims, learns, leaks nothing and can be resumed. Costs seconds.

    Exit code 0: every claim holds; 1: one does not.
    """
    start_logging(quiet, verbose)
    from torchstone.study.run import check as prove

    job = study_job(name, only=only, steps=steps, config=config, assignments=set_)
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


def study_job(
    name: str | None,
    *,
    only: str | None = None,
    steps: str | None = None,
    seeds: str | None = None,
    config: Path | None = None,
    assignments: list[str] | None = None,
) -> StudyJob:
    """The chosen part of a study, as the command line names it."""
    from torchstone.cli.settings import assignment
    from torchstone.study.run import StudyJob

    if name is None:
        name, config = _configured(config)
    return StudyJob(
        name,
        only=split_commas(only),
        steps=split_commas(steps),
        seeds=_seeds(seeds),
        config=config,
        overrides=tuple(assignment(each) for each in assignments or ()),
        environ=os.environ,
    )


def _configured(config: Path | None) -> tuple[str, Path]:
    """The study that a file of knobs names, and that file, which all arms start from."""
    from torchstone.cli.settings import read_settings

    file = config or Path(".config")
    if config is None and not file.is_file():
        raise UsageError("which study?", next="torchstone study check NAME; torchstone study list")
    name = read_settings(config=file).study.name
    if name is None:
        raise UsageError(
            f"{file} names no study", next="set study.name there, or: torchstone study check NAME"
        )
    return str(name), file


def _seeds(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in split_commas(text))
    except ValueError:
        raise UsageError(f"--seeds {text!r} is no list of whole numbers", next="--seeds 1,2") from None
