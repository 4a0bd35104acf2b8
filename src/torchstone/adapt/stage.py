"""Bring the code of a TARGET into the folder of an isolated worker, as data: nothing of it is run here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.machinery import PathFinder
from pathlib import Path

from torchstone._errors import ModelError, UsageError
from torchstone.adapt.target import Target, parse_target

_PLACE = "model"
_MOST_FILES, _MOST_BYTES = 1000, 50_000_000


@dataclass(frozen=True)
class Staged:
    """The TARGET to use inside the worker, what else it must read there, and where it may import from."""

    target: str
    readable: list[Path] = field(default_factory=list)
    importable: list[Path] = field(default_factory=list)


def bring_inside(text: str, folder: Path) -> Staged:
    """Copy what is small and leave in place, to be read only, what is large."""
    target = parse_target(text)
    if target.kind == "gist":
        from torchstone.adapt.gist import fetch_gist

        target = replace(target, kind="folder", value=str(fetch_gist(target).folder))
    if target.kind in ("file", "folder"):
        return Staged(_copy(target, folder / _PLACE))
    if target.kind == "hf":
        local = Path(target.value).expanduser()
        if not local.is_dir():
            raise UsageError(
                f"{text} would have to be fetched from the hub, and the isolated worker has no network",
                next="it runs no code of its own: leave --untrusted out, or give a local folder",
            )
        return Staged(f"hf:{local.resolve()}", [local.resolve()])
    if target.kind == "gpt2":
        return Staged(f"gpt2:{target.path.resolve()}", [target.path.resolve()])
    if target.kind == "object":
        package = place_of(target.value)
        return Staged(text, [package], [package.parent])
    if target.kind in ("run", "checkpoint"):
        raise UsageError(
            f"a {target.kind} is checked where its model's code may run",
            where=text,
            why="the code lies elsewhere, and the isolated worker sees nothing but its own folder",
            next="leave --untrusted out, or check the model's own TARGET",
        )
    return Staged(text)


def source_of(target: Target) -> Path | None:
    """The file that holds the code of a file, folder or gist; None where there is no single one."""
    if target.kind == "gist":
        from torchstone.adapt.gist import fetch_gist

        return fetch_gist(target).folder / "model.py"
    if target.kind == "folder":
        return target.path / "model.py"
    return target.path if target.kind == "file" else None


def _copy(target: Target, place: Path) -> str:
    """The model's file with the Python files beside it; a link is not followed, it could lead to a secret."""
    source = target.path if target.kind == "folder" else target.path.parent
    wanted = [target.path] if target.kind == "file" else [target.path / "model.py"]
    total = 0
    for number, path in enumerate([*wanted, *(each for each in _code(source) if each not in wanted)]):
        total += path.stat().st_size
        if number >= _MOST_FILES or total > _MOST_BYTES:
            raise ModelError(
                f"there is too much code beside {wanted[0].name} to isolate it",
                where=str(source),
                why=f"more than {_MOST_FILES} files or {_MOST_BYTES:,} bytes",
                next="put the model's files into a folder of their own",
            )
        copy = place / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    inside = place if target.kind == "folder" else place / target.path.name
    return f"{inside}:{target.class_name}" if target.class_name else str(inside)


def _code(source: Path) -> Iterator[Path]:
    """config.json, the modules of the folder, and its packages."""
    config = source / "config.json"
    if config.is_file() and not config.is_symlink():
        yield config
    for path in sorted(source.glob("*.py")):
        if not path.is_symlink():
            yield path
    for package in sorted(source.glob("*/__init__.py")):
        if not package.parent.is_symlink():
            yield from (each for each in sorted(package.parent.rglob("*.py")) if not each.is_symlink())


def place_of(module: str) -> Path:
    """The folder of the top package of a dotted name, or its file; found by looking, not by importing."""
    found = PathFinder.find_spec(module.split(".")[0], [*sys.path, str(Path.cwd())])
    if found is None:
        raise UsageError(f"there is no module {module}")
    places = list(found.submodule_search_locations or ())
    return Path(places[0] if places else found.origin or ".").resolve()
