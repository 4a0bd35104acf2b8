"""Mistakes of a `.config` or defconfig, with file:line and the fix; repair of those that need no decision."""

from __future__ import annotations

from pathlib import Path

from torchstone._files import write_text
from torchstone.config.dotconfig import repaired, scan
from torchstone.config.kconfig import Tree
from torchstone.config.mistakes import Mistake


def lint(path: Path, tree: Tree, label: str = "") -> list[Mistake]:
    """Everything wrong in a file: syntax, symbols, values, and assignments that a dependency overrides."""
    return tree.read(path, label or str(path), honoured=True).mistakes


def fix(path: Path, tree: Tree) -> list[Mistake]:
    """Repair blanks, comments behind values, quotes and prefixes in place; gives what was repaired."""
    text = path.read_text(encoding="utf-8")
    found = [each for each in scan(text, tree.symbols, str(path)).mistakes if each.repair is not None]
    if found:
        write_text(path, repaired(text, found))
    return found
