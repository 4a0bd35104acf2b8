"""What `torchstone train` shows: a live bar on a terminal, plain lines in a pipe, and the end of the run.

It is a hook of the engine: it watches and draws, nothing else.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.cli.session import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from torchstone.train.hooks import CheckpointInfo, EndInfo, EpochInfo, EvalInfo, StartInfo, StepInfo
    from torchstone.train.run import TrainResult

REDRAW_S = 0.1
"""A bar drawn more often than this costs more than it tells."""
LINE_S = 10.0
"""In a pipe, one line about so often."""


class TrainView:
    """Draws on stderr while it trains, so that stdout keeps only the results."""

    def __init__(self, *, quiet: bool, sample_tokens: int) -> None:
        self.quiet = quiet
        self.sample_tokens = sample_tokens
        self._out: Console = console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._drawn_at = 0.0
        self._speed: float | None = None
        self._unit = "tokens"
        self._val_loss: float | None = None

    # --- before it trains ---------------------------------------------------------------------

    def on_packing(self, done: int, total: int) -> None:
        """Text is being encoded; what is in the cache already never comes here."""
        now = time.monotonic()
        if self.quiet or now - self._drawn_at < (REDRAW_S if self._out.is_terminal else LINE_S):
            return
        self._drawn_at = now
        if not self._out.is_terminal:
            self._out.print(f"tokens: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB of text")
            return
        if self._bar is None:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("tokens"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self._out,
                auto_refresh=False,
                transient=True,
            )
            self._task = self._bar.add_task("tokens", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was, whatever happened."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    # --- events of the engine -----------------------------------------------------------------

    def on_start(self, info: StartInfo) -> None:
        self.close()
        self._unit = info.unit
        if self.quiet:
            return
        self._out.print(
            f"{info.model}: {_counted(info)}; {info.total_steps} steps ({info.steps_per_epoch} per epoch)"
        )
        for name, words in info.settings.items():
            self._out.print(f"  {name:12} {words}", markup=False)
        if info.first_step:
            self._out.print(f"resumed after step {info.first_step}")
        if not info.has_validation:
            self._out.print("no validation data: only the training loss is measured")
        if self._out.is_terminal:
            self._start_bar(info)

    def on_step(self, info: StepInfo) -> None:
        if self.quiet:
            return
        self._speed = info.tokens_per_s or self._speed
        now = time.monotonic()
        last = info.step == info.total_steps
        if now - self._drawn_at < (REDRAW_S if self._bar else LINE_S) and not last:
            return
        self._drawn_at = now
        speed = f"{self._speed:,.0f} {self._unit}/s" if self._speed else ""
        val = f"  val {self._val_loss:.3f}" if self._val_loss is not None else ""
        if self._bar:
            self._bar.update(self._task, completed=info.step, text=f"loss {info.loss:.3f}{val}  {speed}")
        else:
            self._out.print(f"step {info.step}/{info.total_steps}  loss {info.loss:.4f}{val}  {speed}")

    def on_eval(self, info: EvalInfo) -> None:
        self._val_loss = info.metrics.get("val/loss")

    def on_epoch(self, info: EpochInfo) -> None:
        if self.quiet:
            return
        row = info.row
        val = f"  val {row['val/loss']:.4f}" if "val/loss" in row else ""
        times = f"{row['epoch_duration']:.1f} s, {row['eval_duration']:.1f} s of it validation"
        self._out.print(f"epoch {info.epoch}  loss {row['train/loss']:.4f}{val}  {times}")

    def on_checkpoint(self, info: CheckpointInfo) -> None:
        if not self.quiet and self._out.is_terminal is False and info.is_best:
            self._out.print(f"saved step {info.step} (best so far)")

    def on_end(self, info: EndInfo) -> None:
        self.close()

    def _start_bar(self, info: StartInfo) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._out,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("train", total=info.total_steps, completed=info.first_step, text="")
        self._bar.start()

    # --- the end ------------------------------------------------------------------------------

    def show(self, result: TrainResult) -> None:
        """Results, a sample of text, where the dashboard lies, and three commands to try next."""
        out = console()
        if result.status == "planned":
            for line in result.plan:
                out.print(line)
            return
        done = f"{result.steps} steps, {result.tokens:,} {result.unit} in {result.seconds:.1f} s"
        out.print(f"{result.status}: {done}")
        for name, value in result.final.items():
            if value is not None:
                out.print(f"  {name:12} {value:.4f}")
        if result.best.get("step") is not None:
            out.print(f"  best         step {result.best['step']}, val/loss {result.best['val/loss']:.4f}")
        if result.epochs:
            out.print(f"  time         {epoch_times(result.epochs)}")
        for warning in result.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if self.quiet:
            return
        if self.sample_tokens and result.status == "completed":
            self._show_sample(result)
        run_dir = Path(result.run_dir)
        if (run_dir / "dashboard.html").exists():
            out.print(f"\ndashboard    {run_dir / 'dashboard.html'}")
        out.print("\nnext")
        for command in next_commands(result):
            out.print(f"  {command}")

    def _show_sample(self, result: TrainResult) -> None:
        text = result.sample(self.sample_tokens)
        if text is None:
            return
        out = console()
        out.print("\nsample")
        for line in text.splitlines():
            out.print(f"  | {line}", markup=False)


def _counted(info: StartInfo) -> str:
    learns = f" ({info.trainable:,} of them trained)" if info.trainable != info.parameters else ""
    return f"{info.parameters:,} parameters{learns}"


def epoch_times(epochs: list[dict[str, Any]]) -> str:
    """Of all epochs and on average, with the part that was validation."""
    whole = sum(row["epoch_duration"] for row in epochs)
    validation = sum(row.get("eval_duration", 0.0) for row in epochs)
    count = len(epochs)
    return (
        f"{whole:.1f} s in {count} epoch{'s' * (count > 1)}, {validation:.1f} s of it validation; "
        f"on average {whole / count:.1f} s, {validation / count:.1f} s of it validation"
    )


def next_commands(result: TrainResult) -> list[str]:
    """Three commands that make sense after this run."""
    run_dir = result.run_dir
    if result.status == "completed":
        return [
            f"torchstone check {run_dir}",
            f"torchstone runs show {run_dir}",
            f"torchstone train --config {run_dir}/config.json --set train.max_steps={2 * result.steps} "
            f"--run-dir {run_dir}-longer",
        ]
    return [
        "the same command with --resume auto goes on from here",
        f"torchstone runs show {run_dir}",
        f"torchstone check {run_dir}",
    ]
