"""What only Linux has is asked for before it is used; copies that only CUDA makes are made for CUDA alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from portability.linux_only import ABSENT, is_linux_only

SOURCE = Path(__file__).parents[2] / "src" / "torchstone"
ISOLATION = {"adapt/walls.py", "adapt/landlock.py", "adapt/worker.py"}
"""Linux's own by design: each wall is tried and, where it is missing, named (docs/isolation.md)."""
NAMES_OF_PATHS = {"adapt/watch.py"}
"""A list of what a stranger may read; nothing of it is opened here."""
ASKED_BEFORE = {
    ("tracking/environment.py", "/proc/cpuinfo"),  # is_file() first
    ("tracking/energy.py", "/sys/class/powercap"),  # a glob of what is not there is empty
}
BESIDE_THE_HOST = {
    ("train/snapshot.py", "pin_memory"),  # of a tensor on CUDA
    ("train/snapshot.py", "non_blocking"),
}


def uses(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Names and paths that macOS has not, docstrings left out."""
    said = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if is_linux_only(node.value.id, node.attr):
                yield node, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                if is_linux_only(node.module, each.name):
                    yield node, f"{node.module}.{each.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield from [(node, node.value)] if ABSENT.match(node.value) else []


def is_guarded(node: ast.AST, name: str, parents: dict[ast.AST, ast.AST]) -> bool:
    """Under an if that asks for the name, or for the platform."""
    questions = (
        f"hasattr({name.rpartition('.')[0]}, '{name.rpartition('.')[2]}')",
        "sys.platform == 'linux'",
    )
    while node in parents:
        below, node = node, parents[node]
        if isinstance(node, ast.If | ast.IfExp):
            yes = node.body if isinstance(node.body, list) else [node.body]
            if below in yes and any(each in ast.unparse(node.test) for each in questions):
                return True
    return False


def unguarded(text: str | ast.Module) -> list[str]:
    tree = ast.parse(text) if isinstance(text, str) else text
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    return [name for node, name in uses(tree) if not is_guarded(node, name, parents)]


@pytest.fixture(scope="module")
def source() -> dict[str, ast.Module]:
    files = sorted(SOURCE.rglob("*.py"))
    return {each.relative_to(SOURCE).as_posix(): ast.parse(each.read_text("utf-8")) for each in files}


def test_nothing_of_linux_is_used_unasked(source: dict[str, ast.Module]) -> None:
    elsewhere = source.keys() - ISOLATION - NAMES_OF_PATHS
    assert {(file, name) for file in elsewhere for name in unguarded(source[file])} == ASKED_BEFORE


@pytest.mark.parametrize("file", sorted(ISOLATION))
def test_what_needs_linux_says_so(file: str, source: dict[str, ast.Module]) -> None:
    assert unguarded(source[file])
    assert "Linux" in str(ast.get_docstring(source[file]))


def test_copies_beside_the_host_are_for_cuda(source: dict[str, ast.Module]) -> None:
    found = {
        (file, str(node.arg))
        for file, tree in source.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("pin_memory", "non_blocking")
        if isinstance(node.value, ast.Constant) and node.value.value is True
    }
    assert found == BESIDE_THE_HOST


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("os.sched_getaffinity(0)", ["os.sched_getaffinity"]),
        ("if hasattr(os, 'sched_getaffinity'):\n    os.sched_getaffinity(0)", []),
        ("if not ready:\n    os.memfd_create('x')", ["os.memfd_create"]),
        ("if sys.platform == 'linux':\n    pass\nelse:\n    select.epoll()", ["select.epoll"]),
        ("x = os.getrandom(3) if sys.platform == 'linux' else 0", []),
        ("from os import eventfd", ["os.eventfd"]),
        ("open('/proc/self/statm')", ["/proc/self/statm"]),
        ("os.getpid(); Path('/processes')", []),
        ("'''/proc is told of'''", []),
    ],
)
def test_the_walk_sees_what_it_should(text: str, found: list[str]) -> None:
    assert unguarded(text) == found
