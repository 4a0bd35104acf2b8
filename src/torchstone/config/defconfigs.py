"""Defconfigs by name: those of the current folder first, then those that come with torchstone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torchstone._errors import ConfigError
from torchstone._registry import suggest

FOLDER = "defconfigs"


def find(name: str) -> tuple[Path, str]:
    """(path, label for messages) of a defconfig given by name or by path."""
    for folder in folders():
        if (folder / name).is_file() and Path(name).name == name:
            return folder / name, f"{FOLDER}/{name}"
    if Path(name).is_file():
        return Path(name), name
    known = [each for each, _ in available()]
    raise ConfigError(
        f"there is no defconfig {name!r}",
        why=suggest(name, known),
        next=f"choose one of: {', '.join(known)}" if known else "give the path of a file",
    )


def available() -> Iterator[tuple[str, Path]]:
    """(name, path) of each defconfig; a name of the current folder hides the same name that is shipped."""
    seen: set[str] = set()
    for folder in folders():
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.suffix and path.name not in seen:
                seen.add(path.name)
                yield path.name, path


def folders() -> Iterator[Path]:
    """Where defconfigs are looked for, in order."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1]
    # In a wheel they lie in the package; in a checkout (editable install) at its root, two floors up.
    shipped = checkout / FOLDER if (checkout / "pyproject.toml").is_file() else package / FOLDER
    yield from dict.fromkeys(each.resolve() for each in (Path(FOLDER), shipped) if each.is_dir())


def summary(path: Path) -> str:
    """The first comment line of a defconfig: what it is for."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.endswith(" is not set"):
            return line.removeprefix("# ")
    return ""
