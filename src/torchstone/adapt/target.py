"""A TARGET as the user typed it, read into a record: what kind of thing it names, and which one.

Reading a target touches the disk only to tell a path from a name; it runs nothing and asks no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from torchstone._errors import UsageError

Kind = Literal["file", "folder", "gist", "hf", "object", "zoo", "gpt2", "run", "checkpoint"]

FORMS = (
    "path/model.py[:Class]",
    "a folder with model.py and config.json",
    "gist:ID[@REVISION] or the address of a gist",
    "hf:NAME_OR_PATH",
    "package.module:attribute",
    "zoo:NAME",
    "gpt2:FOLDER with GPT-2 weights, for our own GPT",
    "a run id, a run folder or a checkpoint folder",
)

_IDENTIFIER = r"[A-Za-z_]\w*"
_DOTTED = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*")
_OBJECT = re.compile(rf"(?P<module>{_DOTTED.pattern}):(?P<attribute>{_DOTTED.pattern})")
# GitHub's ids are 20 or 32 hexadecimal digits today; older ones were shorter. The whole part must match.
_GIST_ID = re.compile(r"[0-9a-fA-F]{8,32}")
_REVISION = re.compile(r"[0-9a-fA-F]{7,40}")
_GIST_HOSTS = ("gist.github.com", "gist.githubusercontent.com", "api.github.com")


@dataclass(frozen=True)
class Target:
    """One way to name a model. `text` is what the user typed."""

    kind: Kind
    value: str
    """Path, gist id, hub name, module name or zoo name, by `kind`."""
    text: str
    revision: str | None = None
    class_name: str | None = None
    """The class (or for an object: the attribute) that the user asked for."""
    name_hint: str | None = None
    """A display name that came with an address; it chooses a class only if one is called so."""

    @property
    def untrusted_by_default(self) -> bool:
        """Whether the code comes from a stranger; everything else is the user's own or ours."""
        return self.kind == "gist"

    @property
    def path(self) -> Path:
        return Path(self.value)


def parse_target(text: str | Path, *, runs: Path = Path("runs")) -> Target:
    """Read a TARGET; `runs` is where bare run ids are looked for."""
    text = str(text).strip()
    if not text:
        raise UsageError("the TARGET is empty", next=_forms())
    if "://" in text:
        return _from_address(text)
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _SCHEMES:
        if not rest:
            raise UsageError(f"{text!r} names nothing after {scheme + ':'!r}", next=_forms())
        return _SCHEMES[scheme](rest, text)
    found = _from_path(text)
    if found is None:
        found = _from_object(text)
    if found is None:
        found = _from_run_id(text, runs)
    if found is None:
        raise _nothing(text)
    return found


def from_anywhere(text: str) -> str:
    """The same target, named so that it is found from any folder: what is a path becomes an absolute one."""
    head, _, tail = text.rpartition(":")
    for before, path, behind in (("", text, ""), ("", head, f":{tail}"), (f"{head}:", tail, "")):
        if path and Path(path).expanduser().exists() and before in ("", "hf:", "gpt2:"):
            return f"{before}{Path(path).expanduser().absolute()}{behind}"
    return text


def _from_path(text: str) -> Target | None:
    path_text, class_name = text, None
    head, colon, tail = text.rpartition(":")
    if colon and re.fullmatch(_IDENTIFIER, tail) and (head.endswith(".py") or Path(head).is_dir()):
        path_text, class_name = head, tail
    path = Path(path_text).expanduser()
    if path.is_dir():
        return Target(_kind_of_folder(path), str(path), text, class_name=class_name)
    if path_text.endswith(".py"):
        if not path.is_file():
            raise UsageError(
                f"there is no file {path_text}", where=str(path.absolute().parent), why=_near(path)
            )
        return Target("file", str(path), text, class_name=class_name)
    if path.is_file():
        raise UsageError(
            f"{path_text} is a file, but not Python source",
            why="a model is named by its .py file or by the folder that holds model.py",
            next=_forms(),
        )
    if "/" in path_text or path_text.startswith((".", "~")):
        raise UsageError(f"there is no file or folder {path_text}", why=_near(path), next=_forms())
    return None


def _kind_of_folder(path: Path) -> Kind:
    if (path / "model.py").is_file():
        return "folder"
    if (path / "manifest.json").is_file():
        return "checkpoint"
    if (path / "checkpoints").is_dir() or (path / "run.json").is_file():
        return "run"
    inside = ", ".join(sorted(each.name for each in path.iterdir())[:8]) or "nothing"
    if (path / "config.json").is_file():
        raise UsageError(
            f"{path} holds config.json but no model.py",
            why=f"it holds: {inside}",
            next=f"for a folder in Hugging Face form type: hf:{path}",
        )
    raise UsageError(f"the folder {path} holds no model.py", why=f"it holds: {inside}", next=_forms())


def _near(path: Path) -> str:
    import difflib

    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = [each.name for each in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _from_object(text: str) -> Target | None:
    match = _OBJECT.fullmatch(text)
    if match is None:
        return None
    return Target("object", match["module"], text, class_name=match["attribute"])


def _from_run_id(text: str, runs: Path) -> Target | None:
    """A folder under `runs`, else a run that the store knows under this id."""
    if "/" in text or ":" in text:
        return None
    folder = runs / text
    if not folder.is_dir():
        named = _run_dir_in_store(text, runs)
        if named is None or not named.is_dir():
            return None
        folder = named
    return Target(_kind_of_folder(folder), str(folder), text)


def _run_dir_in_store(run_id: str, runs: Path) -> Path | None:
    named = os.environ.get("TORCHSTONE_STORE") or str(runs / "store.db")
    store = named.removeprefix("sqlite:///")
    if "://" not in store and not Path(store).is_file():
        return None
    from torchstone.tracking.store import Store

    with Store.open(store, readonly=True) as known:
        return next((Path(run.run_dir) for run in known.runs() if run.run_id == run_id), None)


def _gist(rest: str, text: str) -> Target:
    identifier, at, revision = rest.partition("@")
    if at and not revision:
        raise UsageError(f"{text!r} has no revision after '@'", next="type gist:ID or gist:ID@REVISION")
    return _gist_target(identifier, revision or None, text)


def _gist_target(identifier: str, revision: str | None, text: str, name: str | None = None) -> Target:
    if not _GIST_ID.fullmatch(identifier):
        raise UsageError(
            f"{identifier!r} is not a gist id",
            where=text if text != identifier else "",
            why="a gist id is 8 to 32 hexadecimal digits and nothing else",
            next="type gist:ID[@REVISION], or the address that the browser shows",
        )
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UsageError(
            f"{revision!r} is not a revision of a gist",
            where=text,
            why="a revision is 7 to 40 hexadecimal digits",
        )
    return Target(
        "gist", identifier.lower(), text, revision=revision.lower() if revision else None, name_hint=name
    )


def _from_address(text: str) -> Target:
    """A gist page, its raw file, its API address, or any page whose address carries `gist_id=`."""
    parts = urlsplit(text)
    for carried in (parts.fragment, parts.query):
        values = parse_qs(carried)
        if "gist_id" in values:
            identifier, _, revision = values["gist_id"][-1].partition("@")
            return _gist_target(identifier, revision or None, text, values.get("name", [None])[-1])
    steps = [unquote(step) for step in parts.path.split("/") if step]
    if parts.scheme not in ("http", "https") or parts.hostname not in _GIST_HOSTS:
        raise UsageError(
            f"{text} is no address that torchstone can load a model from",
            why="addresses of gists are, and addresses that carry gist_id=ID",
            next=_forms(),
        )
    if parts.hostname == "api.github.com":
        if steps[:1] != ["gists"]:
            raise UsageError(f"{text} is not the address of a gist", next=_forms())
        steps = steps[1:]
    elif len(steps) >= 2 or (steps and not _GIST_ID.fullmatch(steps[0])):
        steps = steps[1:]  # the owner
    if not steps:
        raise UsageError(f"{text} names no gist", next=_forms())
    identifier, after = steps[0].removesuffix(".git"), [step for step in steps[1:] if step != "raw"]
    return _gist_target(identifier, after[0] if after and _REVISION.fullmatch(after[0]) else None, text)


_SCHEMES: dict[str, Callable[[str, str], Target]] = {
    "gist": _gist,
    "hf": lambda rest, text: Target("hf", rest, text),
    "zoo": lambda rest, text: Target("zoo", rest, text),
    "gpt2": lambda rest, text: Target("gpt2", str(Path(rest).expanduser()), text),
}


def _nothing(text: str) -> UsageError:
    if _GIST_ID.fullmatch(text) and len(text) in (20, 32):
        return UsageError(f"{text!r} looks like a gist id", next=f"type gist:{text}")
    import difflib

    head = text.split(":")[0]
    near = difflib.get_close_matches(head, list(_SCHEMES), n=1, cutoff=0.5) if ":" in text else []
    return UsageError(
        f"{text!r} names no model",
        why=f"did you mean {near[0]}:{text.split(':', 1)[1]}?"
        if near
        else "no file, folder or run is called so",
        next=_forms(),
    )


def _forms() -> str:
    return "a TARGET is one of: " + "; ".join(FORMS)
