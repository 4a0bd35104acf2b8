"""`torchstone verify`: hash every file of a checkpoint, a run or a bundle again; exit 0 if all is as written.

Of a bundle every format runs its golden inputs too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import Json, Quiet, Verbose, console, print_json, start_logging


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|CHECKPOINT|RUN", help="A bundle or its archive, a checkpoint, a run folder or id."
        ),
    ],
    only: Annotated[
        list[str] | None, typer.Option("--format", help="Of a bundle, run only this format; may be repeated.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Prove that a checkpoint, every checkpoint of a run, or an exported bundle is what was written.

    Of a bundle each format also runs every golden input again.

    Example:  torchstone verify runs/first

    Example:  torchstone verify bundles/first --json
    """
    start_logging(quiet, verbose)
    from torchstone.export.archive import is_archive
    from torchstone.export.verify import is_bundle

    path = Path(target).expanduser()
    if is_bundle(path) or is_archive(path):
        return _bundle(path, only or [], as_json, quiet)
    if only:
        raise UsageError("--format has no effect here", why=f"{target} is no bundle")
    from torchstone.tracking.verify import verify as verified

    found = verified(run_or_checkpoint(target, "verify"))
    if as_json:
        print_json(found.to_dict())
    else:
        screen = console()
        for each in found.checkpoints if not quiet else [c for c in found.checkpoints if c.problems]:
            told = "; ".join(each.problems) or f"{each.num_bytes / 1e6:,.1f} MB"
            screen.print(f"{each.status.upper():5} {Path(each.path).name:12} {told}", soft_wrap=True)
        for problem in found.problems:
            screen.print(f"FAIL  {problem}", soft_wrap=True)
        if found.quarantined:
            screen.print(f"      {found.quarantined} found bad earlier lie in checkpoints/quarantine")
        screen.print(f"{found.verdict}: {found.path} ({found.seconds:.1f} s)", soft_wrap=True)
    return 0 if found.verdict == "pass" else 1


def _bundle(path: Path, only: list[str], as_json: bool, quiet: bool) -> int:
    from torchstone.export.verify import verify_bundle
    from torchstone.report.inert import inert

    found = verify_bundle(path, only)
    if as_json:
        print_json(found)
        return 0 if found["verdict"] == "pass" else 1
    screen = console()

    def say(text: str) -> None:
        screen.print(inert(text), markup=False, soft_wrap=True)

    for each in found["formats"]:
        told = each["why"] or f"{len(each['cases'])} golden inputs, max abs {each['max_abs']:.2g}"
        if not quiet or each["status"] == "fail":
            say(f"{each['status'].upper():5} {each['name']:12} {told}")
    for problem in found["problems"]:
        say(f"FAIL  {problem}")
    say(f"{found['verdict']}: {path} ({found['seconds']:.1f} s)")
    return 0 if found["verdict"] == "pass" else 1


def run_or_checkpoint(target: str, command: str) -> Path:
    """A path that exists, or the folder of a run that is known by its id."""
    path = Path(target).expanduser()
    if path.exists():
        return path
    from torchstone.adapt.target import parse_target

    try:
        known = parse_target(target)
    except UsageError:
        known = None
    if known is None or known.kind not in ("run", "checkpoint"):
        raise UsageError(
            f"{target} is no checkpoint and no run",
            why=f"{command} takes a checkpoint folder, a run folder or a run id",
            next="torchstone runs list shows the runs that are known",
        )
    return Path(known.path)
