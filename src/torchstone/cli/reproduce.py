"""`torchstone reproduce CAPSULE`: take the first steps of a recorded run again. Exit 0 unless it FAILED."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from torchstone.cli.session import Device, Json, Quiet, Verbose, console, print_json, start_logging


def reproduce(
    capsule: Annotated[
        Path, typer.Argument(metavar="CAPSULE", help="What torchstone export --capsule wrote.")
    ],
    trust: Annotated[
        bool, typer.Option("--trust/--untrusted", help="Run the model's code that is in the capsule.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Run the first steps of a capsule's run and compare each measured value to the last bit.

    The data must be where the configuration says; the steps run in a folder that is thrown away.

    Example:  torchstone reproduce runs/first/capsule.zip
    """
    start_logging(quiet, verbose)
    from torchstone.export.capsule import opened
    from torchstone.train.reproduce import reproduce as reproduced

    with opened(capsule) as found, redirect_stdout(sys.stderr):
        made = reproduced(found, trust=trust, device=device)
    if as_json:
        print_json(made.to_dict())
    else:
        screen = console()
        for each in made.differences if not quiet else ():
            told = f"{each['metric']} was {each['recorded']!r}, is {each['found']!r}"
            screen.print(f"step {each['step']:<5} {told}", markup=False, soft_wrap=True)
        if made.why:
            screen.print(made.why, markup=False, soft_wrap=True)
        told = f"{made.equal} of {made.compared} values of the first {made.steps} steps are equal"
        screen.print(f"{made.verdict}: {told}", markup=False, soft_wrap=True)
    return 1 if made.verdict == "FAILED" else 0
