"""`torchstone eval TARGET`: score a trained model, on its own held-out data or any other."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.check import Target
from torchstone.cli.generate import TokenizerFile, Trust
from torchstone.cli.session import (
    Device,
    Json,
    Quiet,
    Seed,
    Verbose,
    Yes,
    console,
    print_json,
    split_commas,
    start_logging,
)

if TYPE_CHECKING:
    from torchstone.train.evaluate import EvalResult


def evaluate(
    target: Target = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="builtin:stdlib, a file, a folder or a glob; default: the run's own."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task, where the guess is wrong.")] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="val, train or all; default: val of a run's own data, else all."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Examples at a time; default: the run's own.", min=1)
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", help="Score at most this many, spread evenly.", min=1)
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option("--sequence-length", help="Tokens per block of text.", min=2)
    ] = None,
    tokenizer: TokenizerFile = None,
    lm_eval: Annotated[
        str | None, typer.Option("--lm-eval", help="Tasks of lm-evaluation-harness instead: TASK,TASK.")
    ] = None,
    lm_eval_path: Annotated[
        Path | None, typer.Option("--lm-eval-path", help="A folder with harness tasks of your own.")
    ] = None,
    trust: Trust = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Score a model: loss, perplexity, bits per byte, accuracy, each with an interval.

    A run is scored on its own held-out data, by the code that validated it while it was trained.

    Example:  torchstone eval runs/first

    Example:  torchstone eval hf:PATH --data notes.txt --max-samples 200
    """
    start_logging(quiet, verbose)
    if target is None:
        raise UsageError("which model?", next="torchstone eval TARGET [--data SOURCE]")
    if lm_eval is not None:
        useless = {"--data": data, "--split": split, "--sequence-length": sequence_length}
        given = [name for name, value in useless.items() if value is not None]
        if given:
            raise UsageError(f"{', '.join(given)} has no effect on --lm-eval", why="a task has its own data")
        with redirect_stdout(sys.stderr):
            record = _harness(
                target, split_commas(lm_eval), lm_eval_path, task=task, tokenizer=tokenizer, trust=trust,
                device=device, seed=seed, max_samples=max_samples, batch_size=batch_size or 8,
            )  # fmt: skip
        if as_json:
            print_json(record)
        else:
            _show_harness(record)
        return 0
    if lm_eval_path is not None:
        raise UsageError("--lm-eval-path has no effect without --lm-eval", next="--lm-eval TASK")
    from torchstone.train.evaluate import EvalJob, run

    bar = _Bar(quiet or as_json)
    job = EvalJob(
        target=target,
        data=data,
        task=task,
        split=split,
        batch_size=batch_size,
        max_samples=max_samples,
        sequence_length=sequence_length,
        tokenizer=tokenizer,
        trust=trust,
        device=device,
        progress=bar.update,
    )
    with bar, redirect_stdout(sys.stderr):  # what a model prints is not our result
        result = run(job)
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result, quiet)
    return 0


class _Bar:
    """A progress bar on stderr where somebody watches."""

    def __init__(self, silent: bool) -> None:
        self._out = console(stderr=True)
        self._silent = silent or not self._out.is_terminal
        self._bar: Any = None
        self._row: Any = None

    def __enter__(self) -> _Bar:
        if not self._silent:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            self._bar = Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self._out)
            self._row = self._bar.add_task("eval", total=None)
            self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._row, completed=done, total=total)


def _show(result: EvalResult, quiet: bool) -> None:
    out = console()
    counts = result.counts
    size = f"{counts['examples']:,} examples, {counts['targets']:,} targets"
    if counts.get("bytes") is not None:
        size += f", {counts['bytes']:,} bytes"
    out.print(f"{result.target} on {result.data} ({result.split}): {size}, {result.seconds:.1f} s")
    for name, value in result.metrics.items():
        around = result.intervals.get(name)
        shown = f"   [{_number(around[0])}, {_number(around[1])}]" if around else ""
        out.print(f"  {name:14} {_number(value):>10}{shown}", markup=False)
    if "bytes" in counts and "bits_per_byte" not in result.metrics:
        out.print(f"  {'bits_per_byte':14} {counts['bytes_are']}", markup=False)
    for row in result.per_class[:20]:
        out.print(
            f"  class {row.get('name') or row['class']:<4} precision {row['precision']:.3f}  "
            f"recall {row['recall']:.3f}  f1 {row['f1']:.3f}  ({row['support']} targets)"
        )
    if len(result.per_class) > 20:
        out.print(f"  and {len(result.per_class) - 20} more classes: --json lists them")
    if result.interval_method and not quiet:
        out.print(f"  interval: {result.interval_method}", markup=False)
    if result.recorded is not None and not quiet:
        recorded = result.recorded
        out.print(f"  recorded at step {recorded['step']}: val/loss {recorded['val/loss']:.6f}")
    for note in result.notes if not quiet else ():
        print(f"note: {note}", file=sys.stderr)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"


def _harness(target: str, tasks: tuple[str, ...], path: Path | None, **options: Any) -> dict[str, Any]:
    from torchstone._optional import require

    require("lm_eval", "eval")
    from torchstone.train.harness import HarnessJob, run_harness

    found = run_harness(HarnessJob(target=target, tasks=tasks, path=path, **options))
    return {"schema": "torchstone.lm-eval/1", "target": target, **found}


def _show_harness(record: dict[str, Any]) -> None:
    out = console()
    for task, metrics in record["results"].items():
        out.print(task, markup=False)
        for name, value in metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                out.print(f"  {name:28} {_number(float(value)):>10}", markup=False)
    for note in record["notes"]:
        print(f"note: {note}", file=sys.stderr)
