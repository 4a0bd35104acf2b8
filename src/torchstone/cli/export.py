"""`torchstone export RUN|TARGET`: a bundle of formats that carries its own proof."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone._errors import UsageError
from torchstone.cli.check import Target
from torchstone.cli.generate import TokenizerFile, Trust
from torchstone.cli.session import Json, Quiet, Seed, Verbose, Yes, console, print_json, start_logging

if TYPE_CHECKING:
    from torchstone.export.bundle import Bundle
    from torchstone.export.formats import Format
    from torchstone.export.source import Source

GRAPHS = ("pt2", "onnx")
"""Formats that carry their own sizes."""


def export(
    target: Target = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--formats", help="Names with commas (--list shows them); default: safetensors,pt2,onnx."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The bundle's folder; default: RUN/bundle or exports/NAME.")
    ] = None,
    archive: Annotated[
        str | None, typer.Option("--archive", help="Also pack it: tar.zst or zip, the same bytes each time.")
    ] = None,
    capsule: Annotated[
        bool, typer.Option("--capsule", help="Pack the run without its weights, to be reproduced elsewhere.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="HF_REPO",
            help="Show what would go to the hub; with --yes it goes. A bundle, too.",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Where --push makes the repository, only you see it.")
    ] = False,
    tokenizer: TokenizerFile = None,
    task: Annotated[str | None, typer.Option("--task", help="The task, where the guess is wrong.")] = None,
    trust: Trust = None,
    shrink: Annotated[
        bool,
        typer.Option(
            "--shrink", help="Take out heads and channels that pruning made zero; pt2 and onnx only."
        ),
    ] = False,
    list_formats: Annotated[bool, typer.Option("--list", help="List the formats.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    yes: Yes = False,
) -> int:
    """Write a model down in formats that others run, prove each, and keep the proof beside it.

    A format that cannot be made or does not hold is left out, and the exit code is 1.

    Example:  torchstone export runs/first --out bundles/first

    Example:  torchstone export runs/first --capsule

    Example:  torchstone export bundles/first --push me/first

    Example:  torchstone export hf:./my-model --formats safetensors,onnx --out bundles/mine --json
    """
    start_logging(quiet, verbose)
    from torchstone.export.formats import DEFAULT, chosen

    if list_formats:
        return _list(as_json)
    if target is None:
        raise UsageError("which model?", next="torchstone export RUN|TARGET --out DIR")
    if private and push is None:
        raise UsageError("--private has no effect without --push")
    if capsule:
        _refuse_idle(
            {"--formats": formats, "--archive": archive, "--shrink": shrink, "--push": push}, "--capsule"
        )
        return _capsule(target, out, dry_run, yes, as_json)
    if push is not None and (Path(target) / "bundle.json").is_file():
        _refuse_idle(
            {"--formats": formats, "--archive": archive, "--shrink": shrink, "--out": out},
            "a bundle that is pushed as it is",
        )
        return _push_bundle(Path(target), push, private, yes and not dry_run, as_json)
    wanted = chosen(formats or DEFAULT)
    if shrink and any(each.name not in GRAPHS for each in wanted):
        raise UsageError(
            f"--shrink goes with {' and '.join(GRAPHS)}",
            why="the configuration of other formats builds the model at the sizes it had",
            next=f"torchstone export {target} --shrink --formats {','.join(GRAPHS)}",
        )
    place = out or _default_place(target)
    from torchstone.export.archive import pack
    from torchstone.export.bundle import export as exported
    from torchstone.export.bundle import require_place, require_writer
    from torchstone.export.source import open_source
    from torchstone.web.serving.container import beside

    packed = None if archive is None else _archive_beside(place, archive, yes)
    require_place(place, yes)
    for each in wanted:
        require_writer(each)
    with redirect_stdout(sys.stderr):  # what a model prints is not our result
        source = open_source(target, task=task, tokenizer=tokenizer, trust=trust, seed=seed)
        if shrink:
            source.shrink()
        if not dry_run:
            made = exported(source, place, wanted, replace=yes, beside=beside)
            if packed is not None:
                pack(made.path, packed)
    if dry_run:
        return _plan(source, place, wanted, as_json)
    pushed = None
    if push is not None and made.verdict in ("pass", "warn"):
        pushed = _pushed(made.path, push, private, yes)
    if as_json:
        archived = {"archive": None if packed is None else str(packed)}
        print_json(made.to_dict() | archived | {"push": pushed})
    else:
        _show(made, quiet)
        if packed is not None:
            console().print(f"{packed} ({packed.stat().st_size / 1e6:,.1f} MB)", markup=False, soft_wrap=True)
        if pushed is not None:
            _show_push(pushed)
    return 0 if made.verdict in ("pass", "warn") else 1


def _refuse_idle(given: dict[str, Any], what: str) -> None:
    for flag, value in given.items():
        if value:
            raise UsageError(f"{flag} has no effect on {what}")


def _push_bundle(folder: Path, repo: str, private: bool, really: bool, as_json: bool) -> int:
    from torchstone._errors import DataError
    from torchstone.export.verify import verify_bundle

    found = verify_bundle(folder)
    if found["verdict"] != "pass":
        told = found["problems"] or [f"{each['name']}: {each['why']}" for each in found["formats"]]
        raise DataError(
            "the bundle is not pushed, for it does not hold",
            why=told[0] if told else "no format could be run",
            next=f"torchstone verify {folder}",
        )
    pushed = _pushed(folder, repo, private, really)
    if as_json:
        print_json(pushed)
    else:
        _show_push(pushed)
    return 0


def _pushed(folder: Path, repo: str, private: bool, really: bool) -> dict[str, Any]:
    """The `torchstone.push/1` object; nothing goes but where it was confirmed."""
    from torchstone.export.hub import plan_push

    plan = plan_push(folder, repo)
    return plan.to_dict() | {"commit": plan.push(private=private) if really else None}


def _show_push(pushed: dict[str, Any]) -> None:
    screen = console()
    if pushed["commit"] is not None:
        screen.print(f"pushed: {pushed['commit']}", markup=False, soft_wrap=True)
        return
    for name, size in pushed["files"].items():
        screen.print(f"{size:>14,} {name}", markup=False, soft_wrap=True)
    told = f"{len(pushed['files'])} files, {pushed['bytes'] / 1e6:,.1f} MB"
    screen.print(f"{told}, would go to {pushed['repo']}; nothing was pushed, --yes does it", markup=False)


def _default_place(target: str) -> Path:
    from torchstone.adapt.target import parse_target
    from torchstone.adapt.tokenizer_of import home_of
    from torchstone.tracking.run_folder import safe_name

    home = home_of(parse_target(target))
    return home / "bundle" if home is not None else Path("exports") / safe_name(target.rpartition(":")[2])


def _archive_beside(place: Path, ending: str, replace: bool) -> Path:
    from torchstone.export.archive import kind_of

    path = place.with_name(f"{place.name}.{ending.removeprefix('.')}")
    kind_of(path)
    if path.exists() and not replace:
        raise UsageError(f"{path} exists already", next="--yes replaces it, or give another --out")
    return path


def _capsule(target: str, out: Path | None, dry_run: bool, replace: bool, as_json: bool) -> int:
    from torchstone.adapt.target import parse_target
    from torchstone.adapt.tokenizer_of import home_of
    from torchstone.export.archive import kind_of
    from torchstone.export.capsule import write_capsule

    home = home_of(parse_target(target))
    if home is None:
        raise UsageError(
            f"{target} is no run", why="a capsule holds what a run did", next="torchstone runs list"
        )
    path = out or home / "capsule.zip"
    kind_of(path)
    if path.exists() and not replace:
        raise UsageError(f"{path} exists already", next="--yes replaces it, or give another --out")
    if not dry_run:
        write_capsule(home, path)
    size = path.stat().st_size if not dry_run else None
    if as_json:
        print_json({"schema": "torchstone.capsule/1", "path": str(path), "run_dir": str(home), "bytes": size})
    else:
        told = "nothing was written (--dry-run)" if size is None else f"{size / 1e6:.2f} MB"
        console().print(f"{path}: {told}", markup=False, soft_wrap=True)
    return 0


def _list(as_json: bool) -> int:
    from torchstone.export.formats import FORMATS

    if as_json:
        rows = [
            {"name": each.name, "summary": each.summary, "extra": each.extra, "legacy": each.legacy}
            for each in FORMATS
        ]
        print_json({"schema": "torchstone.formats/1", "formats": rows})
        return 0
    for each in FORMATS:
        told = f"{each.summary}; legacy: {each.legacy}" if each.legacy else each.summary
        console().print(f"{each.name:12} {told}", markup=False, soft_wrap=True)
    return 0


def _plan(source: Source, place: Path, wanted: tuple[Format, ...], as_json: bool) -> int:
    plan: dict[str, Any] = {
        "schema": "torchstone.export-plan/1",
        "path": str(place),
        "class": source.model.class_name,
        "task": source.model.task.kind,
        "formats": [each.name for each in wanted],
        **source.interface.to_dict(),
        "weights_bytes": sum(each.numel() * each.element_size() for each in source.module.parameters()),
    }
    if as_json:
        print_json(plan)
        return 0
    screen = console()
    for name, value in plan.items():
        if name not in ("schema", "inputs", "output"):
            screen.print(f"{name:14} {value}", markup=False, soft_wrap=True)
    for each in (*plan["inputs"], plan["output"]):
        screen.print(f"{each['name']:14} {each['dtype']} ({', '.join(map(str, each['axes']))})", markup=False)
    screen.print("nothing was written (--dry-run)")
    return 0


def _show(made: Bundle, quiet: bool) -> None:
    screen = console()
    for each in made.formats:
        row = each.to_dict(made.manifest["files"])
        if each.status == "fail":
            told = f"{each.what}: {each.why}" if each.why else str(each.what)
            screen.print(f"FAIL  {each.name:12} {told}", markup=False, soft_wrap=True)
            if each.next:
                screen.print(f"      {'':12} next: {each.next}", markup=False, soft_wrap=True)
        elif not quiet:
            gap = f"max abs {row['max_abs']:.2g}" if row["max_abs"] is not None else str(each.why)
            told = f"{row['bytes'] / 1e6:,.1f} MB, {gap} ({each.seconds:.1f} s)"
            screen.print(f"{each.status.upper():5} {each.name:12} {told}", markup=False, soft_wrap=True)
    for check in made.health.checks if not quiet else made.health.failed:
        if not check.id.startswith("format-"):
            screen.print(
                f"{check.status.upper():5} {check.id:12} {check.summary}", markup=False, soft_wrap=True
            )
    score = made.health.score
    screen.print(
        f"{made.verdict}: {made.path} ({made.seconds:.1f} s, health {score:g} of 100)",
        markup=False,
        soft_wrap=True,
    )
    for note in made.notes if not quiet else ():
        print(f"note: {note}", file=sys.stderr)
