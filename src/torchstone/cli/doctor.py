"""`torchstone doctor`: what this machine offers, what is missing, and the line that brings it."""

from __future__ import annotations

from torchstone.cli.session import Json, Quiet, Verbose, console, print_json, start_logging


def doctor(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> None:
    """Say what this machine offers: torch, devices, memory, isolation, optional packages.

    Example:  torchstone doctor --json
    """
    start_logging(quiet, verbose)
    from torchstone.tracking.hardware import survey

    findings = survey()
    if as_json:
        print_json({"schema": "torchstone.doctor/1", "findings": [each.to_dict() for each in findings]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("topic", "status", "finding", "to change it"):
        table.add_column(column, overflow="fold")
    for each in findings:
        table.add_row(each.topic, each.status, each.finding, each.advice)
    console().print(table)
