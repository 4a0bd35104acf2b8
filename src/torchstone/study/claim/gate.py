"""The publish gate: from a claim file to a verdict, and to a signed page of it.

publication = publish("claim.toml")          # judge, and write claim-page/
publication.verdict                          # "SUPPORTED", ... or "REFUSED"
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from torchstone.study.claim.arms import resolve_arms
from torchstone.study.claim.claim_file import read_claim
from torchstone.study.claim.confounders import find_all
from torchstone.study.claim.findings import Case
from torchstone.study.claim.publication import Publication
from torchstone.study.claim.repository import Repository
from torchstone.study.claim.terms import Claim
from torchstone.study.claim.verdict import judge


def publish(
    claim: Path | str, *, store: str | Path | None = None, out: Path | None = None, dry_run: bool = False
) -> Publication:
    """Judge a claim and write its page; a dry run writes nothing.

    The page goes to `out`, by default `NAME-page/` beside `NAME.toml`. A page that is there already is
    written anew and keeps its earlier verdicts.
    """
    read = read_claim(claim)
    publication = assess(read, store)
    if dry_run:
        return publication
    from torchstone.study.claim.seal import write_page

    return write_page(publication, out or page_folder(read.path), store)


def assess(claim: Claim, store: str | Path | None = None) -> Publication:
    """Find the runs, look for confounders, and judge the numbers if there is none."""
    arms = resolve_arms(claim, store)
    case = Case(claim=claim, arms=arms, repository=Repository(claim.path.parent / claim.repository))
    found = find_all(case)
    confounders = [each for each in found if each.refuses]
    limits = [each for each in found if not each.refuses]
    return Publication(
        claim=claim,
        arms=arms,
        confounders=tuple(confounders),
        limits=tuple(limits),
        judged=() if confounders else tuple(judge(case, limits)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def page_folder(claim: Path) -> Path:
    return claim.with_name(f"{claim.stem}-page")
