"""`torchstone data show SOURCE`: what a source holds, and how good it is."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone.cli.session import Json, Quiet, Seed, Verbose, console, print_json, start_logging

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at data before training on it."""


@app.command("show", no_args_is_help=True)
def show(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="builtin:NAME, hf:NAME, a file (text, table, ids), a folder, a glob, -."
        ),
    ],
    task: Annotated[
        str | None, typer.Option("--task", help="What it is for, where the guess is wrong.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Lengths in its tokens: bytes, or a tokenizer.json.")
    ] = None,
    sample: Annotated[int, typer.Option("--sample", help="Examples to look at closely.", min=1)] = 1000,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob of data.*.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Statistics, quality with intervals, lengths and a preview. Exit 1 if a rate is surely above its limit.

    Example:  torchstone data show builtin:stdlib --tokenizer bytes

    Example:  torchstone data show reviews.csv --task classification --set data.text_column=review
    """
    start_logging(quiet, verbose)
    from torchstone.cli.settings import read_settings
    from torchstone.data.overview import look_at

    flags = {"data.source": source, "data.task": task, "data.tokenizer": tokenizer}
    settings = read_settings(assignments=set_ or [], flags=flags)
    with redirect_stdout(sys.stderr):  # what a library prints is not our result
        found = look_at(
            source,
            settings.data,
            task=None if settings.data.task == "auto" else settings.data.task,
            tokenizer=open_tokenizer(tokenizer),
            sample=sample,
            seed=seed,
        )
    if as_json:
        print_json(found)
    else:
        out = console()
        for part in _tables(found):
            out.print(part)
    return 1 if found["verdict"] in ("fail", "error") else 0


def open_tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from pathlib import Path

    from torchstone.data.byte_tokenizer import ByteTokenizer
    from torchstone.data.tokenizer import load_tokenizer

    return ByteTokenizer() if name == "bytes" else load_tokenizer(Path(name))


MARKS = {"pass": "green", "warn": "yellow", "fail": "red", "error": "red"}
WIDEST_BAR = 40
MOST_CLASSES = 20


def _tables(found: dict[str, Any]) -> list[RenderableType]:
    from rich.markup import escape
    from rich.table import Table

    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_row("source", escape(found["source"]))
    facts.add_row("task", found["task"])
    for side, split in found["splits"].items():
        size = "" if split["bytes"] is None else f", {split['bytes']:,} bytes"
        facts.add_row(side, f"{split['examples']:,} examples{size}")
    for name, value in found["statistics"].items():
        facts.add_row(name.replace("_", " "), f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")

    quality = Table(title="quality", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "rate", "95 % interval", "zone", "limit", "from", ""):
        quality.add_column(column)
    for rate in found["rates"]:
        colour = MARKS[rate["status"]]
        quality.add_row(
            rate["name"],
            f"{rate['rate']:.2%}",
            f"{rate['low']:.2%} to {rate['high']:.2%}" if rate["sampled"] else "exact",
            rate["zone"],
            f"{rate['limit']:.0%}",
            f"{rate['of']:,} drawn" if rate["sampled"] else f"all {rate['of']:,}",
            f"[{colour}]{rate['status']}[/]" + (f"  {escape(rate['hint'])}" if rate["hint"] else ""),
        )
    parts: list[RenderableType] = [facts, "", quality, "", _bars(found["lengths"], found["unit"])]
    if found["classes"]:
        parts += ["", _classes(found["classes"])]
    parts += ["", "preview"]
    for each in found["preview"]:
        label = "" if each["label"] is None else f"  [{each['label']}]"
        parts.append(escape(f"  {each['where']}{label}"))
        parts.append(escape(f"    {_visible(each['text'])}"))
    parts += [escape(note) for note in found["notes"]]
    return parts


def _bars(lengths: dict[str, Any], unit: str) -> RenderableType:
    from rich.table import Table

    table = Table(title=f"{lengths['unit']} per {unit}", title_justify="left", box=None, show_header=False)
    most = max((each["count"] for each in lengths["bins"]), default=1) or 1
    for each in lengths["bins"]:
        bar = "█" * max(round(WIDEST_BAR * each["count"] / most), 1 if each["count"] else 0)
        table.add_row(f"{each['from']:,} to {each['to']:,}", f"{each['count']:,}", bar)
    return table


def _classes(classes: list[dict[str, Any]]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="classes", title_justify="left", box=None, show_header=False)
    for each in classes[:MOST_CLASSES]:
        table.add_row(escape(each["name"]), f"{each['examples']:,}", f"{each['share']:.1%}")
    if len(classes) > MOST_CLASSES:
        table.add_row(f"and {len(classes) - MOST_CLASSES} more")
    return table


def _visible(text: str) -> str:
    """On one line, with control characters as escapes: a text must not steer the terminal."""
    line = " ".join(text.split())[:200]
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
