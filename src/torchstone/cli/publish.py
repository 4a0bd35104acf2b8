"""`torchstone publish CLAIM`: refuse a comparison by name, or judge it and sign a page of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchstone._errors import UsageError
from torchstone.cli.session import Json, Quiet, Verbose, Where, console, print_json, start_logging

if TYPE_CHECKING:
    from torchstone.study.claim.publication import Publication


def publish(
    claim: Annotated[
        Path | None, typer.Argument(metavar="CLAIM", help="The claim: a TOML file (docs/publish.md).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the page; default CLAIM-page.")
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option("--verify", metavar="PAGE", help="Hash a page again and judge its claim again."),
    ] = None,
    store: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge; write nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Judge a claim about runs: confounders first, then the numbers; exit 0 if it holds.

    Example:  torchstone publish claim.toml

    Example:  torchstone publish --verify claim-page
    """
    start_logging(quiet, verbose)
    if verify is not None:
        if claim is not None or out is not None or dry_run:
            raise UsageError("--verify stands alone", next="torchstone publish --verify PAGE")
        return _verify(verify, store, as_json, quiet)
    if claim is None:
        raise UsageError("no claim is given", next="torchstone publish claim.toml")
    from torchstone.study.claim.gate import page_folder
    from torchstone.study.claim.gate import publish as judged

    found = judged(claim, store=store, out=out, dry_run=dry_run)
    page = None if dry_run else str(out or page_folder(claim))
    if as_json:
        print_json(found.to_dict() | {"page": page})
    else:
        _show(found, page, quiet)
    return 0 if found.holds else 1


def _show(found: Publication, page: str | None, quiet: bool) -> None:
    screen = console()

    def say(line: str, style: str | None = None) -> None:
        screen.print(line, style=style, markup=False, soft_wrap=True)

    say(f"{found.verdict}: {found.claim.title}", "bold")
    say(f"  {found.why}")
    for each in found.confounders:
        say(f"  {each.name:20} {each.what}")
        if each.fix and not quiet:
            say(f"  {'':20} -> {each.fix}")
    for judged in found.judged:
        low, high = map(found.told, judged.interval)
        seeds = " and ".join(dict.fromkeys(map(str, judged.seeds)))
        needed = f"; {judged.needed_seeds} needed" if judged.needed_seeds else ""
        say(f"  {judged.candidate}: {found.told(judged.effect)} ({low} to {high}), {seeds} seeds{needed}")
    if not quiet:
        for limit in found.limits:
            say(f"  limit: {limit.name:13} {limit.what}")
        if page:
            say(f"  page: {page}")


def _verify(page: Path, store: str | None, as_json: bool, quiet: bool) -> int:
    from torchstone.study.claim.seal import verify

    standing = verify(page, store)
    if as_json:
        print_json(standing.to_dict())
    else:
        screen = console()
        then = f", and now {standing.verdict}" if standing.verdict != standing.was else ""
        screen.print(f"{standing.status}: {page} says {standing.was}{then}", markup=False, soft_wrap=True)
        for reason in () if quiet else standing.reasons:
            screen.print(f"  {reason}", markup=False, soft_wrap=True)
    return 0 if standing.stands else 1
