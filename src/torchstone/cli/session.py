"""What every command shares: the common options, logging to stderr, JSON on stdout."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from torchstone.tracking.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; logs go to stderr.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; default: the best.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only results and errors.")]
Verbose = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="More detail; on error the traceback.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer every question with yes.")]
Where = Annotated[
    str | None,
    typer.Option("--store", metavar="PATH", help="The store; default TORCHSTONE_STORE, else runs/store.db."),
]


def start_logging(quiet: bool, verbose: int) -> None:
    """Library messages go to stderr: warnings by default, `-v` info, `-vv` debug."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    form = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, format=form, stream=sys.stderr, force=True)


def console(*, stderr: bool = False) -> Console:
    """A rich console that honours NO_COLOR and, in a pipe, does not cut lines at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(file=stream, width=width, highlight=False)


def print_json(value: dict[str, Any]) -> None:
    """One object on stdout; NaN and infinities become null, which JSON can hold."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def open_store(where: str | None, *, readonly: bool = True) -> Store:
    """A store that is there already: to look at runs, to mark them or to ask a queue makes none."""
    from torchstone.tracking.store import Store

    opened = Store.open(where, readonly=True)
    if readonly:
        return opened
    opened.close()
    return Store.open(where)


def split_commas(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def whole_numbers(flag: str, text: str | None) -> tuple[int, ...]:
    """Those that a flag was given, separated by commas."""
    try:
        return tuple(int(each) for each in split_commas(text))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of whole numbers", next=f"{flag} 1,2") from None
