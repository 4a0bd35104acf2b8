"""A check report for people at a terminal: one line per check, then the verdict and what to do.

Draws a `torchstone.check/1` dict with rich. A status is always a word; colour only helps it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from torchstone.report.inert import inert

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim", "error": "bold magenta"}
WORDS = ("pass", "warn", "fail", "error", "skip")


def check_table(report: dict[str, Any]) -> RenderableType:
    """Everything that `torchstone check` shows of a report."""
    return Group(_lines(report["checks"]), Text(), _verdict(report), *_hints(report["checks"]))


def _lines(checks: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False, expand=False)
    table.add_column("status", no_wrap=True, width=5)
    table.add_column("check", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for check in checks:
        style = STYLES[check["status"]]
        finding = Text(inert(check["summary"]))
        if check["status"] in ("skip", "error") and check.get("why") and check["why"] not in check["summary"]:
            finding.append(f" ({inert(check['why'])})", style="dim")
        accused = check.get("module") if check["status"] in ("warn", "fail", "error") else None
        if accused and accused not in check["summary"]:
            finding.append(f" [{inert(accused)}]", style="bold")
        table.add_row(Text(check["status"].upper(), style=style), Text(inert(check["id"])), finding)
    return table


def _verdict(report: dict[str, Any]) -> Text:
    counts = Counter(check["status"] for check in report["checks"])
    parts = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word]) or "nothing ran"
    line = Text(f"{report['verdict'].upper()}", style=STYLES[report["verdict"]])
    line.append(f"  {parts} in {report['seconds']:.1f} s (seed {report['seed']})", style="default")
    return line


def _hints(checks: list[dict[str, Any]]) -> list[RenderableType]:
    """How to mend what failed, worst first."""
    lines: list[RenderableType] = []
    for status in ("fail", "error", "warn"):
        for check in checks:
            if check["status"] == status and check.get("hint"):
                where = f" in {inert(check['module'])}" if check.get("module") else ""
                lines.append(Text(f"{inert(check['id'])}{where}:", style=STYLES[status]))
                lines.append(Padding(Text(inert(check["hint"])), (0, 0, 0, 2)))
    return lines
