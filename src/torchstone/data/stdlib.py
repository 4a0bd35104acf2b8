"""The source files of the running interpreter's standard library: real text that every machine has.

Left out are installed packages, test suites (some systems ship without them, and they hold files that are
broken on purpose), generated files with the paths of one machine, and symbolic links.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from torchstone._errors import DataError

OUTSIDE = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
GENERATED = "_sysconfigdata"


def stdlib_files() -> list[tuple[str, Path]]:
    """(name below the library, path) of every source file, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, Path]] = []
    for folder, subfolders, names in os.walk(root):  # os.walk follows no links
        subfolders[:] = [each for each in subfolders if each not in OUTSIDE]
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py" and not name.startswith(GENERATED) and not path.is_symlink():
                found.append((path.relative_to(root).as_posix(), path))
    if not found:
        raise DataError(
            "this interpreter has no standard library sources",
            where=str(root),
            why="some embedded builds ship it compiled",
            next="give a text file or folder: --data PATH",
        )
    return sorted(found)
