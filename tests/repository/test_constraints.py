"""The pins are whole, and agree with each other and with the package."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
EXTRAS = {"dev.txt": ["dev"], "training.txt": ["quickstart", "hf"], "notebook.txt": ["quickstart"]}
BROUGHT_BY_THE_NOTEBOOK = {"torch", "numpy", "pandas"}


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements(extras: list[str]) -> list[Requirement]:
    """Requirements of the package with these extras, extras that name extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(each) for each in project["dependencies"]]
    queue = list(extras)
    while queue:
        for each in map(Requirement, project["optional-dependencies"][queue.pop()]):
            if each.name == "torchstone":
                queue += each.extras
            else:
                found.append(each)
    return found


@pytest.mark.parametrize("file", EXTRAS)
def test_every_requirement_is_pinned_within_its_range(file: str) -> None:
    pinned = pins(file)
    for each in requirements(EXTRAS[file]):
        name = canonicalize_name(each.name)
        if file == "notebook.txt" and name in BROUGHT_BY_THE_NOTEBOOK:
            assert name not in pinned, f"a notebook's own {name} must not be moved"
        else:
            assert each.specifier.contains(pinned[name]), f"{file} pins {name} outside {each}"


def test_one_package_has_one_version_everywhere() -> None:
    dev = pins("dev.txt")
    for file in ("training.txt", "notebook.txt"):
        assert {name: dev.get(name) for name in pins(file)} == pins(file)


@pytest.mark.parametrize("file", EXTRAS)
def test_the_pins_are_whole_and_agree_with_one_another(file: str) -> None:
    """Followed through the metadata of what is installed, which is what `constraints/dev.txt` pins."""
    pinned, seen = pins(file), set[tuple[str, str]]()
    queue = requirements(EXTRAS[file])
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        installed = Version(metadata.version(name)).public  # torch's build is named after a plus
        assert pinned.get(name, installed) == installed, f"{name} {installed} is installed"
        assert name in pinned or name in BROUGHT_BY_THE_NOTEBOOK, f"{file} leaves {name} open"
        assert wanted.specifier.contains(installed), f"{file} pins {name} outside {wanted}"
        for extra in ({""} | wanted.extras) - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            queue += [
                each
                for each in map(Requirement, metadata.requires(name) or [])
                if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    assert len(seen) > 20
