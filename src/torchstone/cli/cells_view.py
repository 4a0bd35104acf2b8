"""The cells of a study on the terminal: a live table where somebody watches, else a line for each change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchstone.cli.session import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from torchstone.study.cells import Cells, CellState
    from torchstone.study.run import Outcome

REDRAW_S = 0.5
COLOURS = {"done": "green", "failed": "red", "working": "cyan", "cancelled": "yellow"}


class CellsView:
    """Hears of a runner's cells and shows them on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._out = console(stderr=True)
        self._live: Any = None
        self._drawn_at = 0.0
        self._told: dict[str, str] = {}

    def __enter__(self) -> CellsView:
        if not self._quiet and self._out.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._live is not None:
            self._live.stop()

    def hear(self, cells: Cells, working: Sequence[str]) -> None:
        now = time.monotonic()
        if self._quiet or now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = now
        states = cells.states()
        if self._live is not None:
            steps = steps_of(cells, states, working)
            self._live.update(cells_table(states, cells.plan.study.metric, steps), refresh=True)
            return
        for each in states:
            status = "working" if each.cell.id in working else each.status
            if self._told.get(each.cell.id, "waiting") != status:
                self._out.print(f"{each.cell.name}: {status}{_why(each)}")
            self._told[each.cell.id] = status


def steps_of(cells: Cells, states: Sequence[CellState], working: Sequence[str]) -> dict[str, str]:
    """Cell -> how far it is, of those that are worked on."""
    from torchstone._files import read_json

    runs = {}
    for each in states:
        if each.cell.id in working:
            with contextlib.suppress(OSError, ValueError, KeyError):
                runs[each.cell.id] = read_json(each.run_dir / "run.json")["run_id"]
    values = cells.store.last_values(list(runs.values()))
    found = dict.fromkeys(working, "starts")
    for cell, run_id in runs.items():
        row = values.get(run_id, {}).get("train/loss")
        if row is not None:
            found[cell] = f"step {row.step}, loss {row.value:.4g}"
    return found


def cells_table(
    states: Sequence[CellState], metric: str, working: dict[str, str] | None = None
) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from torchstone.study.plan_info import metric_of

    table = Table("arm", "seed", "status", metric, "steps", "time", "tries", "", box=None, pad_edge=False)
    for each in states:
        status = "working" if working and each.cell.id in working else each.status
        value = metric_of(each, metric)
        told = (working or {}).get(each.cell.id, "") or _why(each).removeprefix(": ")
        table.add_row(
            escape(each.cell.arm),
            str(each.cell.seed),
            Text(status, style=COLOURS.get(status, "")),
            "" if value is None else f"{value:.4f}",
            str((each.result or {}).get("steps", "")),
            f"{each.job.seconds:.0f} s" if each.job.seconds else "",
            str(each.job.tries or ""),
            escape(told),
        )
    return table


def ending_lines(outcome: Outcome, name: str) -> list[str]:
    """What came of it in a sentence, and what to type next."""
    from torchstone.report.numbers import duration
    from torchstone.study.plan_info import counts_of

    counts = ", ".join(f"{number} {status}" for status, number in counts_of(outcome).items())
    lines = [f"{outcome.plan.study.name}: {counts}"]
    if outcome.ending is not None:
        lines.append(f"ended: {outcome.ending.reason}")
    done = [each.job.seconds for each in outcome.states if each.status == "done"]
    left = len(outcome.plan.cells) - len(done)
    if done and left:
        lines.append(
            f"left: about {duration(left * sum(done) / len(done))} of one slot, as those that are done"
        )
    failed = next((each for each in outcome.states if each.status == "failed"), None)
    if failed is not None:
        lines.append(f"  read {failed.run_dir}/log.txt, then: torchstone study run {name} --retry-failed")
    elif outcome.ending is not None and outcome.ending.exit_code:
        lines.append(f"  the same command goes on from here: torchstone study run {name}")
    return lines


def _why(state: CellState) -> str:
    error = state.error
    return f": {error.get('what', '')}" if error and state.status != "done" else ""
