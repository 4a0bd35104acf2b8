"""`torchstone recover`: the results of a run from its checkpoints, ours or those of earlier systems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone.cli.session import Json, Quiet, Verbose, console, print_json, start_logging

if TYPE_CHECKING:
    from torchstone.train.recovery import Recovered


def recover(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DIR|FILE", help="A run, a folder of checkpoints, a step-N folder or a .pt file."
        ),
    ],
    monitor: Annotated[
        str, typer.Option("--monitor", help="The metric that says which epoch is best.")
    ] = "val_loss",
    mode: Annotated[str, typer.Option("--mode", help="min or max.")] = "min",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show what came of a run whose results were lost; runs no code of its files and loads no weights.

    Example:  torchstone recover runs/first

    Example:  torchstone recover old/checkpoints --monitor val_accuracy --mode max
    """
    start_logging(quiet, verbose)
    from torchstone.cli.verify import run_or_checkpoint
    from torchstone.train.recovery import recover as recovered

    path = run_or_checkpoint(target, "recover")
    single = path.is_file() or (path / "manifest.json").is_file()
    found = recovered(*((path, None) if single else (None, path)), monitor=monitor, mode=mode)
    if as_json:
        print_json(found.to_dict())
        return 0
    _show(found, quiet)
    return 0


def _show(found: Recovered, quiet: bool) -> None:
    from torchstone.report.inert import inert
    from torchstone.report.numbers import duration, number

    screen, results = console(), found.results()
    facts: list[tuple[str, Any]] = [
        ("run", found.run_name),
        ("folder", found.workspace_root),
        ("epochs", len(found.epochs)),
        ("final loss", number(results["final_loss"])),
        ("best epoch", found.best_epoch),
        ("checkpoint", found.checkpoint_path),
        ("time", None if found.training_time is None else duration(found.training_time)),
    ]
    for name, value in facts:
        if value not in (None, ""):
            screen.print(f"{name:12} {inert(value)}", markup=False, soft_wrap=True)
    if not quiet:
        _show_checkpoints(found)
    for warning in found.warnings:
        console(stderr=True).print(f"warning: {inert(warning)}", markup=False, soft_wrap=True)


def _show_checkpoints(found: Recovered) -> None:
    from rich.table import Table
    from rich.text import Text

    from torchstone.report.inert import inert
    from torchstone.report.numbers import number

    table = Table(box=None, pad_edge=False)
    table.add_column("checkpoint", overflow="fold")
    for name in ("epoch", "step", "train/loss", "val/loss"):
        table.add_column(name, justify="right")
    table.add_column("written", no_wrap=True)
    for each in found.checkpoints:
        numbers = (each.epoch, each.global_step, each.train_loss, each.val_loss)
        stamp = (each.timestamp or "")[:19]
        table.add_row(Text(inert(each.path.name)), *map(number, numbers), Text(inert(stamp)))
    screen = console()
    screen.print()
    screen.print(table)
