"""Write a page, sign its content, and find out later whether it still stands.

`page.json` holds the content, its SHA-256 and those of the files beside it. The hash shows that something was
changed; who changes the content and hashes it again is found out by judging the claim once more from the runs
themselves, which `verify` does. It is no proof of who wrote a page; a signed git commit is.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchstone import _files
from torchstone._errors import DataError, MissingExtra, TorchstoneError, UsageError
from torchstone.report.figure_file import write_png
from torchstone.study.claim.claim_file import parse_claim
from torchstone.study.claim.gate import assess
from torchstone.study.claim.page import html_page, markdown_page
from torchstone.study.claim.picture import comparison_figure
from torchstone.study.claim.publication import Publication
from torchstone.study.claim.verdict import HOLDS, REFUSED, VERDICTS
from torchstone.tracking.marks import PUBLISHED
from torchstone.tracking.store import Store

log = logging.getLogger(__name__)

SCHEMA = "torchstone.page/1"
FILE = "page.json"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What became of a page."""

    page: str
    status: str
    """holds, changed (its runs are other ones now), demoted, or tampered."""
    was: str
    """The verdict on the page."""
    verdict: str
    """The verdict now; REFUSED where the runs are gone."""
    reasons: tuple[str, ...]

    @property
    def stands(self) -> bool:
        return self.status == "holds" and self.verdict in HOLDS

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "torchstone.publish-verify/1",
            "page": self.page,
            "status": self.status,
            "was": self.was,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
        }


def write_page(publication: Publication, folder: Path, store: str | Path | None) -> Publication:
    """Write page.html, page.md, picture.png and page.json; the publication with its earlier verdicts."""
    made_from = _made_from(publication, folder, store)
    publication = replace(publication, history=_history(folder, made_from["claim"]))
    folder.mkdir(parents=True, exist_ok=True)
    content = _finite(publication.to_dict()) | {"made_from": made_from}
    sha256 = content_hash(content)
    files = [folder / "page.html", folder / "page.md"]
    try:
        files.append(write_png(comparison_figure(publication), folder / "picture.png"))
    except MissingExtra:
        (folder / "picture.png").unlink(missing_ok=True)  # an older one would show other numbers
    _files.write_text(files[0], html_page(publication, sha256))
    _files.write_text(files[1], markdown_page(publication, sha256, files[2] if len(files) > 2 else None))
    signature = {
        "algorithm": "sha256",
        "content": sha256,
        "files": {each.name: _files.sha256(each) for each in files},
    }
    _files.write_json(folder / FILE, {"schema": SCHEMA, "content": content, "signature": signature})
    _tell_runs(publication, folder, sha256)
    return publication


def verify(page: Path, store: str | Path | None = None) -> Standing:
    """Hash a page again and judge its claim again."""
    return _examined(page if page.is_dir() else page.parent, store)[0]


def judge_again(store: Store, run_id: str) -> list[Standing]:
    """What became of each page that rests on this run; one whose verdict is another now is written anew.

    A page that was tampered with, or whose runs are gone, is left as it is and told.
    """
    beside = store.folder or Path()
    pages = {beside / event.data["page"] for event in store.events(run_id) if event.kind == PUBLISHED}
    found = []
    for folder in sorted(each for each in pages if (each / FILE).is_file()):
        standing, now = _examined(folder, store.address)
        if now is not None and standing.verdict != standing.was and standing.status != "tampered":
            write_page(now, folder, store.where)
        found.append(standing)
    return found


def _examined(folder: Path, store: str | Path | None) -> tuple[Standing, Publication | None]:
    """What became of a page, and the judgement of today; None where the runs are gone."""
    record = _read(folder)
    was, tampered = str(record["content"]["verdict"]), list(_tampered(folder, record))
    now, reasons = _judged_again(folder, record["content"], store)
    verdict = REFUSED if now is None else now.verdict
    if tampered:
        status = "tampered"
    elif VERDICTS.index(verdict) > VERDICTS.index(was):
        status = "demoted"
        if now is not None:
            reasons += [f"{each.name}: {each.what}" for each in now.confounders] or [now.why]
    else:
        status = "changed" if reasons else "holds"
    told = (*tampered, *reasons)
    return Standing(page=str(folder), status=status, was=was, verdict=verdict, reasons=told), now


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content in its one canonical form."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _files.sha256_bytes(text.encode("utf-8", "surrogatepass"))


def _made_from(publication: Publication, folder: Path, store: str | Path | None) -> dict[str, Any]:
    """Where claim and store are, from the page: a page says nothing of the machine it was made on."""

    def from_here(path: str | Path) -> str:
        return os.path.relpath(Path(path).absolute(), folder.absolute())

    stores = {run.where for arm in publication.arms for run in arm.runs if run.origin == "store"}
    used = store if store is not None else stores.pop() if len(stores) == 1 else None
    is_file = used is not None and "://" not in str(used)
    return {"claim": from_here(publication.claim.path), "store": from_here(str(used)) if is_file else used}


def _history(folder: Path, claim: str) -> tuple[Mapping[str, Any], ...]:
    """Of the page that is there already; another claim's, or a changed one, is not written over."""
    if not (folder / FILE).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(
                "this folder holds something that is no page", where=str(folder), next="give another --out"
            )
        return ()
    record = _read(folder)
    content = record["content"]
    if content_hash(content) != record["signature"]["content"]:
        raise DataError(
            "the page that is there was changed after it was signed",
            where=str(folder / FILE),
            next="take it away, or give another --out",
        )
    if content["made_from"]["claim"] != claim:
        raise UsageError(
            "another claim's page is there",
            where=str(folder),
            why=f"it was made from {content['made_from']['claim']}",
            next="give another --out",
        )
    last = {
        "created": content["created"],
        "verdict": content["verdict"],
        "sha256": record["signature"]["content"],
    }
    return (*content["history"], last)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        raise UsageError("there is no page here", where=str(path), next="torchstone publish CLAIM writes one")
    try:
        record = _files.read_json(path)
        if record["schema"] == SCHEMA and record["content"]["verdict"] in VERDICTS:
            _ = (
                record["signature"]["content"],
                record["content"]["claim"]["text"],
                record["content"]["made_from"],
            )
            return dict(record)
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError("this is no page of torchstone publish", where=str(path))


def _tampered(folder: Path, record: Mapping[str, Any]) -> Iterator[str]:
    signature = record["signature"]
    if content_hash(record["content"]) != signature["content"]:
        yield f"the content of {FILE} is not what was signed"
    for name, sha256 in signature.get("files", {}).items():
        path = folder / Path(name).name
        if not path.is_file():
            yield f"{name} is missing"
        elif _files.sha256(path) != sha256:
            yield f"{name} is not what was signed"


def _judged_again(
    folder: Path, content: Mapping[str, Any], store: str | Path | None
) -> tuple[Publication | None, list[str]]:
    """The judgement of today, and what changed in the runs since."""
    try:
        now = _assessed(folder, content, store)
    except MissingExtra:
        raise
    except TorchstoneError as error:
        return None, [f"the runs cannot be found again: {error.what}"]
    return now, list(_changes(content, now))


def _assessed(folder: Path, content: Mapping[str, Any], store: str | Path | None) -> Publication:
    origin = content["made_from"]
    claim = parse_claim(content["claim"]["text"], folder / origin["claim"])
    if store is None and origin["store"] is not None:
        store = origin["store"] if "://" in origin["store"] else folder / origin["store"]
    return assess(claim, store)


def _changes(content: Mapping[str, Any], now: Publication) -> Iterator[str]:
    before = {(arm["name"], run["id"]): run["digest"] for arm in content["arms"] for run in arm["runs"]}
    today = {(arm.name, run.run_id): run.digest for arm in now.arms for run in arm.runs}
    for arm, run_id in before.keys() - today.keys():
        yield f"{run_id} is no longer in {arm}"
    for arm, run_id in today.keys() - before.keys():
        yield f"{run_id} is new in {arm}"
    for arm, run_id in sorted(before.keys() & today.keys()):
        if before[arm, run_id] != today[arm, run_id]:
            yield f"what is known of {run_id} in {arm} has changed"


def _tell_runs(publication: Publication, folder: Path, sha256: str) -> None:
    """Each run of a store learns which page rests on it, so that it can be judged again.

    The page is named from a store that is a file, as the store is in the page, so both can be moved together.
    """
    data = {"verdict": publication.verdict, "sha256": sha256}
    runs = [(run.where, run.run_id) for arm in publication.arms for run in arm.runs if run.origin == "store"]
    for where in dict.fromkeys(where for where, _ in runs):
        try:
            with Store.open(where) as opened:
                page = (
                    os.path.relpath(folder.absolute(), opened.folder)
                    if opened.folder
                    else str(folder.absolute())
                )
                for run_id in dict.fromkeys(run_id for place, run_id in runs if place == where):
                    opened.add_event(run_id, PUBLISHED, {"page": page} | data)
        except (OSError, TorchstoneError) as error:  # the page is written, and can be verified all the same
            log.warning("the runs in %s do not know of this page: %s", where, str(error).partition("\n")[0])


def _finite(value: Any) -> Any:
    """NaN and infinities as text, which JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
