"""`torchstone check TARGET`: prove a model."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Verbose,
    Yes,
    console,
    print_json,
    split_commas,
    start_logging,
)

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        help="path/model.py[:Class], a folder, gist:ID[@REVISION], hf:NAME_OR_PATH, pkg.module:attr, "
        "zoo:NAME, gpt2:FOLDER, a run, a checkpoint.",
    ),
]


def check(
    target: Target = None,
    tier: Annotated[
        str | None, typer.Option("--tier", help="Tiers to run: 1,2 or all; default: check.tiers, which is 1.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="Run only these checks: ID,ID.")] = None,
    skip: Annotated[str | None, typer.Option("--skip", help="Leave these checks out: ID,ID.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Read knobs from this file.")] = None,
    defconfig: Annotated[str | None, typer.Option("--defconfig", help="Read knobs from a defconfig.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob; may be repeated.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task, where the guess is wrong.")] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Rough seconds, 60 by default; chooses the probes.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SOURCE", help="New data, for tier 5.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="SOURCE", help="Data that `drift` compares with.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="TARGET", help="What `benchmark` (tier 3) compares with."),
    ] = None,
    glue: Annotated[
        str | None,
        typer.Option("--glue", metavar="FOLDER", help="Data of the check `glue` (tier 3), or hub."),
    ] = None,
    glue_task: Annotated[
        str | None, typer.Option("--glue-task", help="Its task: cola, sst2, mrpc ...; default: sst2.")
    ] = None,
    trust: Annotated[
        bool | None, typer.Option("--trust/--untrusted", help="Run the model's code here, or only isolated.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a self-contained page.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; load nothing.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every probe.", min=0)] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Prove a model: leaks, dead weights, broken masks, unstable numbers; each with the guilty module.

    Exit code 0: pass or warn; 1: a check failed; 3: untrusted code was stopped.

    Example:  torchstone check model.py:MyTransformer --only causal-leak,dead-parameters
    """
    start_logging(quiet, verbose)
    if target is None and config is None and defconfig is None:
        raise UsageError("which model?", next="torchstone check TARGET, for example zoo:gpt-nano")
    from torchstone.cli.settings import read_settings

    flags = {
        "model.target": target,
        "data.task": task,
        "check.tiers": None if tier is None else _tiers(tier),
        "check.only": None if only is None else split_commas(only),
        "check.skip": None if skip is None else split_commas(skip),
        "check.budget_s": budget,
        "check.seed": seed,
        "check.baseline": baseline,
        "check.glue": glue,
        "check.glue_task": glue_task,
        "check.data": data,
        "check.reference": reference,
        "train.dry_run": True if dry_run else None,
    }
    settings = read_settings(config=config, defconfig=defconfig, assignments=set_ or [], flags=flags)
    dry_run = settings.train.dry_run
    from torchstone.checks.run import CheckJob, run

    job = CheckJob.of(settings, trust=trust, device=device)
    show = Progress(quiet)
    with redirect_stdout(sys.stderr):  # what a model prints is not our result
        report = run(job, dry_run=dry_run, progress=show.line, tell=show.tell)
    if html:
        report.to_html(html)
    if junit:
        report.to_junit(junit)
    if as_json:
        print_json(report.to_dict())
    elif not dry_run:
        from torchstone.report.check_table import check_table

        console().print(check_table(report.to_dict()))
    return 0 if dry_run or report.verdict in ("pass", "warn") else 1


class Progress:
    """Says on stderr which check runs where somebody watches, and what is known of a stranger."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def tell(self, text: str) -> None:
        """What must be said even in a pipe."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        if not self.quiet and sys.stderr.isatty():
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def _tiers(text: str) -> tuple[int, ...]:
    if text == "all":
        return (1, 2, 3, 4, 5)
    try:
        tiers = tuple(int(each) for each in split_commas(text))
    except ValueError:
        tiers = ()
    if not tiers or not set(tiers) <= {1, 2, 3, 4, 5}:
        raise UsageError(f"--tier {text!r} is not a list of tiers", next="--tier 1,2 or --tier all")
    return tiers
