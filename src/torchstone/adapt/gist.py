"""Fetch `model.py` and `config.json` of a public gist: data only, nothing of it is run here.

One question to the REST API, at most one more per file that it cut short; no redirect is followed, no
other host is asked, and a token goes to api.github.com alone. What came is kept by id, revision and
hash, so a pinned revision needs the network once.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from torchstone._errors import EnvironmentProblem, ModelError, Offline, TryAgain, UsageError
from torchstone._files import read_json, sha256, sha256_bytes, write_bytes, write_json
from torchstone.adapt.target import Target

GITHUB = "https://api.github.com"
FILES = ("model.py", "config.json")
FILE_LIMIT_BYTES = 1_000_000
# The API sends every file of the gist, also those that are not for us.
ANSWER_LIMIT_BYTES = 16_000_000
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Gist:
    """The files of one revision, on this disk."""

    identifier: str
    revision: str
    folder: Path
    sha256: dict[str, str]
    owner: str | None = None
    notes: list[str] = field(default_factory=list)


def fetch_gist(
    target: Target, *, cache: Path | None = None, environ: Mapping[str, str] | None = None
) -> Gist:
    """The files that `target` names; a full revision that was fetched before is taken from the cache."""
    environ = os.environ if environ is None else environ
    cache = cache or cache_folder(environ)
    if target.revision is not None and len(target.revision) == 40:
        kept = _kept(cache, target.value, target.revision)
        if kept is not None:
            return kept
    base = environ.get("TORCHSTONE_GIST_API", GITHUB).rstrip("/")
    address = f"{base}/gists/{target.value}" + (f"/{target.revision}" if target.revision else "")
    try:
        answer = _ask(address, base, target, environ)
    except Offline as offline:
        raise _with_cached(offline, cache, target) from None
    files = _chosen_files(answer, base, target, environ)
    return _keep(cache, target, answer, files)


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where fetched gists are kept: TORCHSTONE_CACHE, else the user's cache folder."""
    environ = os.environ if environ is None else environ
    if environ.get("TORCHSTONE_CACHE"):
        return Path(environ["TORCHSTONE_CACHE"]) / "gists"
    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "torchstone" / "gists"


# --- the network -----------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the request, and the trust in its host, to a place nobody named."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def _ask(address: str, base: str, target: Target, environ: Mapping[str, str]) -> dict[str, Any]:
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    token = environ.get("GITHUB_TOKEN")
    if token and base == GITHUB:
        headers["Authorization"] = f"Bearer {token}"
    body = _get(address, headers, ANSWER_LIMIT_BYTES, target)
    try:
        answer = json.loads(body)
    except ValueError:
        raise TryAgain(
            "the gist API did not answer in JSON", where=address, why=repr(body[:60])[2:-1]
        ) from None
    if not isinstance(answer, dict) or not isinstance(answer.get("files"), dict):
        raise TryAgain("the gist API answered without a list of files", where=address)
    return answer


def _get(address: str, headers: Mapping[str, str], limit: int, target: Target) -> bytes:
    if urlsplit(address).scheme not in ("http", "https"):
        raise UsageError(f"{address} is no web address", why="TORCHSTONE_GIST_API must begin with https://")
    request = urllib.request.Request(address, headers={"User-Agent": "torchstone", **headers})
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            body: bytes = response.read(limit + 1)
    except urllib.error.HTTPError as refusal:
        with refusal:
            raise _refused(refusal, address, target) from None
    except (OSError, HTTPException) as problem:
        reason = getattr(problem, "reason", problem)
        raise Offline(
            f"gist {target.value} cannot be fetched: {urlsplit(address).hostname} does not answer",
            why=str(reason) or type(reason).__name__,
            next="try again with a network, or give the folder that holds model.py",
        ) from None
    if len(body) > limit:
        raise ModelError(
            f"gist {target.value} is larger than torchstone takes",
            where=address,
            why=f"more than {limit:,} bytes",
        )
    return body


def _refused(refusal: urllib.error.HTTPError, address: str, target: Target) -> Exception:
    named = f"{target.value}" + (f" at revision {target.revision}" if target.revision else "")
    if refusal.code in (404, 422):
        return UsageError(
            f"there is no public gist {named}",
            where=address,
            next="check the id, and that the gist is public",
        )
    if refusal.code == 429 or (refusal.code == 403 and _exhausted(refusal.headers)):
        return TryAgain(
            f"GitHub allows no more requests from here {_until(refusal.headers)}",
            where=address,
            next="try again then, or set GITHUB_TOKEN, which allows 5000 an hour",
        )
    if refusal.code == 401:
        return EnvironmentProblem("GitHub does not accept GITHUB_TOKEN", next="unset it, or renew it")
    if 300 <= refusal.code < 400:
        return ModelError(
            f"the address of gist {named} leads elsewhere, and redirects are not followed",
            where=address,
            why=f"to {refusal.headers.get('Location', 'an unnamed place')}",
        )
    return TryAgain(f"GitHub answered {refusal.code} {refusal.reason}", where=address)


def _exhausted(headers: Message) -> bool:
    return headers.get("X-RateLimit-Remaining") == "0" or headers.get("Retry-After") is not None


def _until(headers: Message) -> str:
    after, reset = headers.get("Retry-After", ""), headers.get("X-RateLimit-Reset", "")
    if after.isdigit():
        return f"for {after} seconds"
    if reset.isdigit():
        return f"until {time.strftime('%H:%M:%S', time.localtime(int(reset)))}"
    return "for now"


def _with_cached(offline: Offline, cache: Path, target: Target) -> Offline:
    folder = cache / target.value
    kept = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    if not kept:
        return offline
    return Offline(
        offline.what, why=offline.why, next=f"an earlier copy is kept: gist:{target.value}@{kept[-1]}"
    )


# --- the files -------------------------------------------------------------------------------------------


def _chosen_files(
    answer: Mapping[str, Any], base: str, target: Target, environ: Mapping[str, str]
) -> dict[str, bytes]:
    offered = answer["files"]
    if "model.py" not in offered:
        raise ModelError(
            f"gist {target.value} holds no model.py",
            why=f"it holds: {', '.join(sorted(offered)) or 'nothing'}",
            next="export the model again, or download the file and give its path",
        )
    files = {
        name: _content(offered[name], name, base, target)
        for name in FILES
        if isinstance(offered.get(name), dict)
    }
    for name, content in files.items():
        if not content.strip():
            raise ModelError(f"{name} of gist {target.value} is empty")
    return files


def _content(entry: Mapping[str, Any], name: str, base: str, target: Target) -> bytes:
    size = entry.get("size")
    if isinstance(size, int) and size > FILE_LIMIT_BYTES:
        raise ModelError(
            f"{name} of gist {target.value} is larger than torchstone takes",
            why=f"{size:,} bytes, and the limit is {FILE_LIMIT_BYTES:,}",
        )
    text = entry.get("content")
    if entry.get("truncated") or not isinstance(text, str):
        return _get(_allowed(entry.get("raw_url"), base, name, target), {}, FILE_LIMIT_BYTES, target)
    content = text.encode("utf-8")
    if len(content) > FILE_LIMIT_BYTES:
        raise ModelError(f"{name} of gist {target.value} is larger than {FILE_LIMIT_BYTES:,} bytes")
    return content


def _allowed(address: Any, base: str, name: str, target: Target) -> str:
    """The raw address, if it lies on the host that was asked or where GitHub keeps raw gists."""
    asked, raw = urlsplit(base), urlsplit(address if isinstance(address, str) else "")
    at_github = base == GITHUB and raw.scheme == "https" and raw.netloc == "gist.githubusercontent.com"
    if at_github or (raw.scheme, raw.netloc) == (asked.scheme, asked.netloc):
        return raw.geturl()
    raise ModelError(
        f"{name} of gist {target.value} is kept on another host, which is not asked",
        why=f"{raw.netloc or 'no host'} is not {asked.netloc}",
    )


def _keep(cache: Path, target: Target, answer: Mapping[str, Any], files: Mapping[str, bytes]) -> Gist:
    hashes = {name: sha256_bytes(content) for name, content in files.items()}
    revision = _revision(answer, target) or sha256_bytes("".join(sorted(hashes.values())).encode())[:40]
    folder = cache / target.value / revision
    said = answer.get("owner")
    owner = str(said.get("login")) if isinstance(said, dict) else None
    ignored = sorted(set(answer["files"]) - set(files))
    notes = [f"gist {target.value} at revision {revision}: model.py has sha256 {hashes['model.py']}"]
    if ignored:
        notes.append(f"ignored files of the gist: {', '.join(ignored)}")
    if "config.json" not in files:
        notes.append("the gist has no config.json")
    record = {
        "gist": target.value,
        "revision": revision,
        "owner": owner,
        "sha256": hashes,
        "notes": notes,
    }
    for stale in FILES:
        if stale not in files:
            (folder / stale).unlink(missing_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_json(folder / "gist.json", record)  # last: a folder without it is not complete
    return Gist(target.value, revision, folder, hashes, owner, notes)


def _revision(answer: Mapping[str, Any], target: Target) -> str | None:
    """The full revision: as asked for, else what the history says is the newest."""
    if target.revision is not None and len(target.revision) == 40:
        return target.revision
    history = answer.get("history")
    newest = history[0].get("version") if isinstance(history, list) and history else None
    if isinstance(newest, str) and len(newest) == 40 and all(each in "0123456789abcdef" for each in newest):
        return newest
    return None


def _kept(cache: Path, identifier: str, revision: str) -> Gist | None:
    """The cached revision, if it is whole and its files still have the hashes that were recorded."""
    folder = cache / identifier / revision
    if not (folder / "gist.json").is_file():
        return None
    record = read_json(folder / "gist.json")
    hashes: dict[str, str] = record["sha256"]
    present = {name: sha256(folder / name) for name in FILES if (folder / name).is_file()}
    if present != hashes:
        return None
    return Gist(identifier, revision, folder, hashes, record["owner"], list(record["notes"]))
