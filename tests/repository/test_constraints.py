"""The pins agree with each other and with the package, and pip can resolve them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


@pytest.mark.timeout(400)  # pip reads the metadata of 150 packages; on a busy machine that takes minutes
@pytest.mark.parametrize("file", EXTRAS)
def test_pip_resolves_the_pins(file: str) -> None:
    package = f"{ROOT}[{','.join(EXTRAS[file])}]"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--retries", "0", "--timeout", "30", "--constraint", str(ROOT / "constraints" / file)]
    done = subprocess.run([*command, "torch==2.13.0", package], capture_output=True, text=True, check=False)
    if "Temporary failure in name resolution" in done.stderr or "Failed to establish" in done.stderr:
        pytest.skip("the package index does not answer; run again with network")
    assert done.returncode == 0, done.stderr
