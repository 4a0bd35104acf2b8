"""`torchstone train [TARGET]`: train a model with exact resume, and show what came of it."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from torchstone.cli.check import Target
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Verbose,
    Yes,
    print_json,
    start_logging,
)
from torchstone.train.rank_place import rank_place

DURATIONS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def train(
    context: typer.Context,
    target: Target = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="builtin:NAME, hf:NAME, a file (text, table, ids), a folder, a glob, -."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task, where the guess is wrong.")] = None,
    defconfig: Annotated[str | None, typer.Option("--defconfig", help="Start from this defconfig.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Read knobs from this file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob; may be repeated.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of this run.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this run.")] = None,
    resume: Annotated[str, typer.Option("--resume", help="auto, never, or a checkpoint.")] = "never",
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Optimizer steps.", min=1)] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Stop with the state saved: 90, 30m, 2h.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", help="Optimizer steps between saves.", min=1)
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Refuse operations without a deterministic form.")
    ] = False,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="Several devices: auto, ddp or fsdp.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", help="Processes to start, one per GPU or CPU core.", min=1)
    ] = None,
    trust: Annotated[
        bool | None, typer.Option("--trust/--untrusted", help="Run the model's code here, or refuse.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Take the bad step of an incident again, on the CPU.")
    ] = None,
    certify: Annotated[
        int | None,
        typer.Option("--certify", help="Run so many steps twice; are all bits equal?", min=1),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", help="Tokens of text to show at the end.", min=0)] = 60,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; write nothing.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.", min=0)] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Train a model on text; stop it whenever you like, it resumes bit for bit.

    Example:  torchstone train zoo:gpt-nano --data builtin:stdlib --max-steps 60 --run-dir runs/first

    Example:  torchstone train --defconfig quickstart --set train.epochs=2 --run-dir runs/q --resume auto
    """
    place = rank_place(os.environ)
    if place is not None and not place.main and not verbose:
        quiet = True  # rank 0 says it all
    start_logging(quiet, verbose)
    from torchstone.train.launch import as_rank
    from torchstone.train.signals import leave_at_once

    flags = {
        "model.target": target,
        "data.source": data,
        "data.task": task,
        "tracking.run_name": name,
        "train.max_steps": max_steps,
        "train.max_time_s": None if max_time is None else seconds(max_time),
        "train.checkpoint_every": checkpoint_every,
        "train.deterministic": True if deterministic else None,
        "train.random_seed": seed,
        "train.strategy": strategy,
        "train.devices": devices,
        "train.dry_run": True if dry_run else None,
    }
    if replay is not None:
        from torchstone.cli.proof_view import show_replay

        return show_replay(replay, trust=trust, as_json=as_json)
    # From here on: a signal may come while torch is being imported.
    with as_rank(verbose=bool(verbose)) as rank, leave_at_once():
        from torchstone.cli.settings import read_settings
        from torchstone.cli.train_view import TrainView
        from torchstone.train.config import SECTIONS
        from torchstone.train.devices import processes_to_launch
        from torchstone.train.launch import launch
        from torchstone.train.run import TrainJob, run

        settings = read_settings(config=config, defconfig=defconfig, assignments=set_ or [], flags=flags)
        settings = settings.select(SECTIONS)
        processes = processes_to_launch(settings.train, device)
        if processes > 1 and not settings.train.dry_run and certify is None:
            return launch(processes, context.obj, verbose=bool(verbose))
        view = TrainView(quiet=quiet or as_json, sample_tokens=sample)
        job = TrainJob(
            settings,
            run_dir=run_dir,
            resume=resume,
            trust=trust,
            device=device,
            hooks=(view,),
            on_packing=view.on_packing,
        )
        if certify is not None:
            from torchstone.cli.proof_view import show_certificate

            return show_certificate(job, certify, as_json=as_json)
        with redirect_stdout(sys.stderr):  # what a model prints is not our result
            try:
                result = run(job)
            finally:
                view.close()
        rank.ended(result.exit_code)
        if place is None or place.main:
            if as_json:
                print_json(result.to_dict())
            else:
                view.show(result)
    return rank.exit_code


def seconds(text: str) -> float:
    """`90`, `90s`, `30m`, `2h`, `1d` in seconds."""
    from torchstone._errors import UsageError

    unit = DURATIONS.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"--max-time {text!r} is not a duration", next="--max-time 90, 30m, 2h or 1d")
    return value
