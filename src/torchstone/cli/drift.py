"""`torchstone drift`: whether new data come from the distribution of the reference. Exit 1 if they do not."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.data import MARKS, open_tokenizer
from torchstone.cli.session import Json, Quiet, Seed, Verbose, console, print_json, start_logging

if TYPE_CHECKING:
    from rich.table import Table

    from torchstone.drift.verdict import DriftVerdict

SOURCE = "builtin:NAME, hf:NAME, a file (text, table, ids), a folder, a glob, or a saved profile (.npz)."
ZONES = {"healthy": MARKS["pass"], "warning": MARKS["warn"], "critical": MARKS["fail"]}


def drift(
    reference: Annotated[str, typer.Argument(metavar="REF", help=f"Data that is known: {SOURCE}")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Data to compare with it, of the same kind.")],
    task: Annotated[
        str | None,
        typer.Option("--task", help="causal-lm, classification, vision ..., or tabular: all columns."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Texts in its ids; default: their bytes.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", help="Rows to draw from each side at most.", min=8)] = 10_000,
    false_alarms: Annotated[
        float, typer.Option("--false-alarms", help="Share of alarms where nothing drifted.")
    ] = 0.05,
    save_profile: Annotated[
        Path | None, typer.Option("--save-profile", metavar="FILE.npz", help="Keep the profile of REF.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob of data.*.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Compare two data sets. The verdict has a known rate of false alarms, whatever the size of the samples.

    Example:  torchstone drift builtin:stdlib notes/

    Example:  torchstone drift sales-2025.csv sales-2026.csv --task tabular --save-profile sales-2025.npz
    """
    start_logging(quiet, verbose)
    if not 0 < false_alarms < 0.5:
        raise UsageError(f"--false-alarms {false_alarms} is no small share", next="--false-alarms 0.05")
    if save_profile is not None and save_profile.suffix != ".npz":
        raise UsageError(
            f"--save-profile {save_profile} must end in .npz", next="--save-profile reference.npz"
        )
    from torchstone.checks.data_profile import TABULAR, profile_source
    from torchstone.cli.settings import read_settings
    from torchstone.drift.verdict import compare

    flags = {"data.task": None if task == TABULAR else task, "data.tokenizer": tokenizer}
    settings = read_settings(assignments=set_ or [], flags=flags)
    with redirect_stdout(sys.stderr):  # what a library prints is not our result
        encoder = open_tokenizer(tokenizer)
        left, right = (
            profile_source(name, settings.data, task=task, tokenizer=encoder, rows=rows, seed=seed)
            for name in (reference, new)
        )
        verdict = compare(left, right, false_alarm_rate=false_alarms, seed=seed)
    if save_profile is not None:
        left.save(save_profile)
    if as_json:
        print_json(
            {"schema": "torchstone.drift/1", "reference": reference, "new": new, "seed": seed}
            | {"verdict": "fail" if verdict.alarm else "pass"}
            | verdict.to_dict()
        )
    else:
        out = console()
        if not quiet:
            out.print(_table(verdict))
        out.print(_sentence(verdict), soft_wrap=True)
    return 1 if verdict.alarm else 0


def _table(verdict: DriftVerdict) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("feature", "reference", "new", "distance", "p", "detectable", ""):
        table.add_column(column)
    for each in verdict.features:
        table.add_row(
            escape(each.feature),
            _number(each.reference),
            _number(each.new),
            f"[{ZONES[each.zone]}]{each.distance:.3f} {each.zone}[/]",
            _p(each.p_value),
            _detectable(each),
            f"[{MARKS['fail']}]drifted ({each.aspect})[/]" if each.alarm else "",
        )
    return table


def _sentence(verdict: DriftVerdict) -> str:
    rows = f"{verdict.rows[0]:,} and {verdict.rows[1]:,} rows"
    rate = f"false alarms {verdict.false_alarm_rate:.1%}"
    if not verdict.features:
        return f"pass: nothing varies in {rows}, so nothing can have drifted"
    if verdict.alarm:
        guilty = ", ".join(each.feature for each in verdict.features if each.alarm)
        return f"fail: {guilty} drifted (p {_p(verdict.p_value)}; {rows}; {rate})"
    return f"pass: no drift is seen (p {_p(verdict.p_value)}; {rows}; {rate})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _detectable(each: Any) -> str:
    """The smallest effect that four of five comparisons of this size find."""
    if each.detectable_change is None:
        return f"w {each.detectable:.2g}"
    share = f" ({each.detectable_change / abs(each.reference):.1%})" if each.reference else ""
    return f"± {each.detectable_change:,.3g}{share}"
