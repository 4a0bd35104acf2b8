"""`torchstone search TARGET`: hyper-parameter search with resuming, pruning and parallel workers."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli.check import Target
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Seed,
    Verbose,
    Yes,
    console,
    print_json,
    start_logging,
)

if TYPE_CHECKING:
    from torchstone.study.search import SearchResult


def search(
    target: Target = None,
    data: Annotated[str | None, typer.Option("--data", help="A source, as `train` takes it.")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", metavar="KEY=TEXT", help="1e-5..1e-2:log, 0..0.3, 2..8:2 or A,B,C; may be repeated."
        ),
    ] = None,
    space_file: Annotated[
        Path | None, typer.Option("--space-file", help="A TOML file with a section [space].")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="In all, with those of earlier sessions.", min=1)
    ] = 20,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Trials at a time.", min=1)] = 1,
    metric: Annotated[str, typer.Option("--metric", help="What is optimised.")] = "val/loss",
    sampler: Annotated[str, typer.Option("--sampler", help="tpe or random.")] = "tpe",
    pruner: Annotated[str, typer.Option("--pruner", help="median, hyperband or none.")] = "median",
    task: Annotated[str | None, typer.Option("--task", help="The task, where the guess is wrong.")] = None,
    defconfig: Annotated[str | None, typer.Option("--defconfig", help="Start from this defconfig.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Read knobs from this file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob for all trials.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the search; default: search-MODEL.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder of the trials; default: runs/NAME.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Optimizer steps of a trial.", min=1)
    ] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Save and stop after so long: 90, 30m, 2h.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the space; write nothing.")] = False,
    trust: Annotated[
        bool | None, typer.Option("--trust/--untrusted", help="Run the model's code here, or refuse.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Search for good knobs; stop it whenever you like, the same command goes on.

    Exit code 0: found; 1: every trial failed; 75: the time is over; else a signal's.

    Example:  torchstone search zoo:gpt-nano --data builtin:stdlib --max-steps 60 --trials 20 --jobs 2
    """
    start_logging(quiet, verbose)
    if target is None and config is None and defconfig is None:
        raise UsageError("which model?", next="torchstone search TARGET, for example zoo:gpt-nano")
    from torchstone.cli.settings import read_settings
    from torchstone.cli.train import seconds
    from torchstone.study.search import How, SearchJob, run
    from torchstone.study.space import read_space
    from torchstone.train.config import SECTIONS

    flags = {
        "model.target": target,
        "data.source": data,
        "data.task": task,
        "train.max_steps": max_steps,
        "train.dry_run": True if dry_run else None,
    }
    settings = read_settings(config=config, defconfig=defconfig, assignments=set_ or [], flags=flags)
    varied = read_space(settings.select(SECTIONS), space_file, space or [])
    if settings.train.dry_run:
        if as_json:
            print_json({"schema": "torchstone.search-space/1", "space": varied.to_dict()})
        else:
            for axis in varied.axes:
                console().print(f"{axis.key:32} {_words(axis.to_dict())}", markup=False)
        return 0
    word = name or "search-" + Path(settings.model.target).stem.removeprefix("zoo:")
    job = SearchJob(
        name=word, space=varied, trials=trials, metric=metric, sampler=sampler, pruner=pruner, seed=seed
    )
    how = How(
        root=run_dir, jobs=jobs, device=device, trust=trust,
        max_time_s=None if max_time is None else seconds(max_time),
    )  # fmt: skip
    view = _View(quiet or as_json)
    with redirect_stdout(sys.stderr):  # what a model prints is not our result
        found = run(job, how, hear=view.hear)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)
    return found.exit_code


class _View:
    """One line on stderr for each trial that ends."""

    def __init__(self, silent: bool) -> None:
        self.silent, self.told = silent, set[int]()

    def hear(self, found: SearchResult) -> None:
        for each in found.trials:
            if each["state"] == "running" or each["number"] in self.told or self.silent:
                continue
            self.told.add(each["number"])
            value = "" if each["value"] is None else f" {each['value']:.4f}"
            best = "" if found.best_value is None else f", best {found.best_value:.4f}"
            print(f"trial {each['number']}: {each['state']}{value}{best}", file=sys.stderr)


def _show(found: SearchResult) -> None:
    out = console()
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    out.print(f"{found.name}: {found.reason}; {counts}", markup=False)
    if found.best is not None:
        out.print(f"best {found.metric} {found.best['value']:.4f} in trial {found.best['number']}:")
        for key, value in found.best["params"].items():
            share = found.importances.get(key)
            told = f"   importance {share:.0%}" if share is not None else ""
            out.print(f"  {key:32} {value}{told}", markup=False)
    for each in found.trials:
        if each["error"]:
            out.print(f"  trial {each['number']} failed: {each['error']}", markup=False)
    for file in found.files:
        out.print(f"  {file}", markup=False, soft_wrap=True)


def _words(axis: dict[str, object]) -> str:
    values = axis.get("values")
    if isinstance(values, list):
        return ", ".join(map(str, values))
    how = " (log)" if axis["log"] else f" in steps of {axis['step']}" if axis["step"] else ""
    return f"{axis['low']} to {axis['high']}{how}"
