"""`torchstone config`: look at the configuration, edit it in a menu, write, compare and lint its files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone.cli.session import Json, Quiet, console, print_json

if TYPE_CHECKING:
    from torchstone.config.kconfig import Tree
    from torchstone.config.mistakes import Mistake
    from torchstone.config.resolve import Resolved
    from torchstone.config.schema import Section

app = typer.Typer(
    help="Look at the configuration, edit it in a menu, write, compare and lint its files.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DOTCONFIG = Path(".config")
File = Annotated[Path, typer.Option("--config", help="The configuration file to work on.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one knob; may be repeated.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be written; write nothing.")]


@app.command("list", epilog="Example:  torchstone config list")
def list_(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the defconfigs of this folder and those that come with torchstone."""
    from torchstone.config.defconfigs import available, summary

    found = [{"name": name, "path": str(path), "summary": summary(path)} for name, path in available()]
    if as_json:
        print_json({"schema": "torchstone.config-list/1", "defconfigs": found})
        return
    for each in found:
        print(each["name"] if quiet else f"{each['name']:<16} {each['summary']}")


@app.command("defconfig", epilog="Example:  torchstone config defconfig quickstart --set train.max_steps=20")
def defconfig(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or path of a defconfig.")],
    file: File = DOTCONFIG,
    set_: Set = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a full .config from a defconfig, CONFIG_ variables and --set; keeps the old as .config.old."""
    from torchstone.cli.settings import read_settings

    settings = read_settings(defconfig=name, assignments=set_ or [])
    _write(file, _tree().text(settings.plain), settings, dry_run, as_json, quiet)
    if settings.train.dry_run and not quiet:
        print("its jobs will only say what they would do (train.dry_run)", file=sys.stderr)


@app.command("oldconfig", epilog="Example:  torchstone config oldconfig")
def oldconfig(
    file: File = DOTCONFIG, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Write .config anew with the knobs of today: new ones get their defaults, a lost one is an error."""
    from torchstone.config.resolve import resolve

    settings = resolve(_sections(), file=file)
    _write(file, _tree().text(settings.plain), settings, dry_run, as_json, quiet)


@app.command("save", epilog="Example:  torchstone config save defconfigs/mine")
def save(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write.")] = Path("defconfig"),
    file: File = DOTCONFIG,
    set_: Set = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a defconfig: only what differs from the defaults."""
    from torchstone.cli.settings import read_settings

    settings = read_settings(config=file, assignments=set_ or [])
    _write(output, _tree().minimal_text(settings.plain), settings, dry_run, as_json, quiet)


@app.command("menu", epilog="Example:  torchstone config menu")
def menu(file: File = DOTCONFIG) -> None:
    """Edit .config in the kernel's menu; press / to search, ? for help on a knob, Q to leave."""
    from torchstone.config.kconfig import require_terminal
    from torchstone.config.mistakes import raise_all
    from torchstone.config.resolve import resolve

    require_terminal()
    tree = _tree()
    # The menu drops a line that it does not understand, so it gets only a sound file.
    settings = resolve(_sections(), file=file if file.exists() else None)
    edited = tree.edit_in_menu(settings.plain)
    if edited is None:
        print(f"{file} is as it was", file=sys.stderr)
        return
    _keep_old(file)
    file.write_text(edited, encoding="utf-8")
    raise_all(tree.read(file, str(file), honoured=True).mistakes)
    print(f"wrote {file}; next: make, or torchstone train --config {file}", file=sys.stderr)


@app.command(
    "show", epilog="Example:  torchstone config show optim.learning_rate --set optim.learning_rate=3e-4"
)
def show(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="Only these keys or sections.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--config", help="Read this file; default: .config where there is one.")
    ] = None,
    defconfig: Annotated[str | None, typer.Option("--defconfig", help="Read this defconfig.")] = None,
    set_: Set = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the default.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a file.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of all knobs.")] = False,
    kconfig: Annotated[bool, typer.Option("--kconfig", help="Print the generated Kconfig tree.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show each knob: value, where the value comes from, unit, what it does."""
    from torchstone._errors import UsageError

    if sum((schema, markdown, kconfig)) > 1:
        raise UsageError("one of --schema, --markdown and --kconfig at a time")
    if schema or markdown or kconfig:
        _print_tree(schema, markdown)
        return
    from torchstone.cli.settings import read_settings

    if file is None and defconfig is None and DOTCONFIG.is_file():
        file = DOTCONFIG
    settings = read_settings(config=file, defconfig=defconfig, assignments=set_ or [])
    rows = _rows(settings, keys or [], changed)
    if as_json:
        print_json({"schema": "torchstone.config-show/1", "hash": settings.hash, "knobs": rows})
    elif quiet:
        print("\n".join(f"{row['key']}={row['text']}" for row in rows))
    else:
        _table(("key", "value", "source", "unit", "what it does"), [_cells(row) for row in rows])


@app.command("diff", epilog="Example:  torchstone config diff quickstart .config")
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="A defconfig, file, run folder, or default.")],
    right: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show every key in which two configurations differ."""
    from torchstone.config.knobs import knobs_of
    from torchstone.config.resolve import differences
    from torchstone.config.values import write

    knobs = knobs_of(_sections())
    found = differences(_named(left), _named(right))
    rows = [
        (each.key, *(write(knobs[each.key], side.value) if side else "" for side in (each.left, each.right)))
        for each in found
    ]
    if as_json:
        records = [{"key": key, "left": a, "right": b} for key, a, b in rows]
        print_json(
            {"schema": "torchstone.config-diff/1", "left": left, "right": right, "differences": records}
        )
    elif rows:
        _table(("key", left, right), rows)
    elif not quiet:
        print(f"{left} and {right} say the same", file=sys.stderr)


@app.command("lint", epilog="Example:  torchstone config lint --fix .config defconfigs/mine")
def lint(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Default: .config and ./defconfigs/*")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair blanks, comments, quotes and prefixes.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Find every line that would not do what it says; exit code 2 if there is one."""
    from torchstone._errors import ConfigError
    from torchstone.config import lint as linter

    tree = _tree()
    paths = files or _files_of_this_folder()
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise ConfigError(f"there is no file {', '.join(missing)}", next="torchstone config list")
    repaired = [each for path in paths for each in linter.fix(path, tree)] if fix else []
    left = [each for path in paths for each in linter.lint(path, tree)]
    if as_json:
        print_json(
            {
                "schema": "torchstone.config-lint/1",
                "files": [str(path) for path in paths],
                "mistakes": [each.to_dict() for each in left],
                "repaired": [each.to_dict() for each in repaired],
            }
        )
    else:
        _print_lint(left, repaired, len(paths), quiet)
    return 2 if left else 0


def _print_lint(left: list[Mistake], repaired: list[Mistake], num_files: int, quiet: bool) -> None:
    for each in repaired:
        if not quiet:
            print(f"{each.where}: repaired: {each.what}")
    for each in left:
        tail = "; ".join(part for part in (each.why, each.next) if part)
        print(f"{each.where}: {each.what}" + (f" ({tail})" if tail else ""))
    if any(each.repair for each in left):
        print("torchstone config lint --fix repairs what needs no decision", file=sys.stderr)
    if not left and not quiet:
        print(f"{num_files} files, no mistake left", file=sys.stderr)


def _sections() -> dict[str, type[Section]]:
    from torchstone.study.config import SECTIONS

    return dict(SECTIONS)


def _tree() -> Tree:
    from torchstone.config.kconfig import Tree

    return Tree(_sections())


def _named(name: str) -> Resolved:
    """The configuration that a word on the command line means."""
    from torchstone.config.resolve import resolve

    if name == "default":
        return resolve(_sections())
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return resolve(_sections(), file=path)
    return resolve(_sections(), defconfig=name)


def _files_of_this_folder() -> list[Path]:
    here = [DOTCONFIG] if DOTCONFIG.is_file() else []
    folder = Path("defconfigs")
    return here + sorted(path for path in folder.glob("*") if path.is_file() and not path.suffix)


def _write(path: Path, text: str, settings: Resolved, dry_run: bool, as_json: bool, quiet: bool) -> None:
    from torchstone._files import write_text

    if not dry_run:
        _keep_old(path)
        write_text(path, text)
    if as_json:
        record = {"schema": "torchstone.config-write/1", "path": str(path), "written": not dry_run}
        print_json(record | {"hash": settings.hash, "text": text})
    elif dry_run:
        print(text, end="")
    elif not quiet:
        print(f"wrote {path}", file=sys.stderr)


def _keep_old(path: Path) -> None:
    if path.is_file():
        from torchstone._files import write_bytes

        write_bytes(path.with_name(f"{path.name}.old"), path.read_bytes())


def _print_tree(schema: bool, markdown: bool) -> None:
    """The description of all knobs in one of its generated forms."""
    if schema:
        from torchstone.config.docs import json_schema

        print_json(json_schema(_sections()))
    elif markdown:
        from torchstone.config import docs

        print(docs.markdown(_sections()), end="")
    else:
        from torchstone.config.knobs import knobs_of
        from torchstone.config.menus import kconfig_text

        print(kconfig_text(knobs_of(_sections()), _sections()))


def _rows(settings: Resolved, wanted: list[str], changed: bool) -> list[dict[str, Any]]:
    from torchstone._errors import UsageError
    from torchstone.config.knobs import knobs_of, suggest_key
    from torchstone.config.values import legal, write

    knobs = knobs_of(settings.sections)
    for each in wanted:
        if not any(key == each or key.startswith(f"{each}.") for key in knobs):
            raise UsageError(f"there is no key or section {each!r}", why=suggest_key(each, knobs))
    rows = []
    for key, value in settings.values().items():
        knob = knobs[key]
        if wanted and not any(key == each or key.startswith(f"{each}.") for each in wanted):
            continue
        if changed and value.value == knob.default:
            continue
        rows.append(
            {
                "key": key,
                "value": value.value,
                "text": write(knob, value.value),
                "source": value.source,
                "default": knob.default,
                "unit": knob.unit,
                "takes": legal(knob),
                "symbol": knob.symbol,
                "help": knob.help,
            }
        )
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return row["key"], row["text"], row["source"], row["unit"] or "", row["help"]


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not rows or (not sys.stdout.isatty() and "COLUMNS" not in os.environ):
        # In a pipe: one line a row, easy to cut and grep.
        for row in rows:
            print("\t".join(row).rstrip())
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(*heads, box=None, pad_edge=False)
    table.columns[0].min_width = max(len(row[0]) for row in rows)
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)
