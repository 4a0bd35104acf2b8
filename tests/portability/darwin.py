"""This Linux made to look like macOS: `import darwin` before torchstone is imported.

What the standard library has on Linux alone is taken away, and our own code finds no /proc, /sys or /dev/shm.
Torch, psutil and numpy are loaded first, because their macOS wheels hold other files than those here.
A child that multiprocessing spawns, as it does on macOS, comes through here too.
"""

from __future__ import annotations

import builtins
import importlib
import io
import multiprocessing
import os
import selectors
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy  # noqa: F401
import psutil  # noqa: F401
import torch.utils.data  # noqa: F401
from linux_only import ABSENT, PATTERNS, is_linux_only

SOURCE = str(Path(__file__).parents[2] / "src" / "torchstone") + os.sep


def linux_only_names() -> list[str]:
    """Those that are there."""
    return [
        f"{module}.{name}"
        for module in PATTERNS
        for name in vars(importlib.import_module(module))
        if is_linux_only(module, name)
    ]


def take_away() -> None:
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc, assignment]
    for each in linux_only_names():
        module, _, name = each.partition(".")
        delattr(sys.modules[module], name)


def hide_files() -> None:
    for name in ("open", "stat", "lstat", "access", "listdir", "scandir", "readlink", "statvfs"):
        setattr(os, name, _refusing(getattr(os, name)))
    builtins.open = io.open = _refusing(open)


def _refusing(call: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(path: Any = ".", *arguments: Any, **named: Any) -> Any:
        if isinstance(path, str | os.PathLike) and ABSENT.match(os.fspath(path)) and _we_ask():
            raise FileNotFoundError(2, "macOS has no such file", os.fspath(path))
        return call(path, *arguments, **named)

    return refuse


def _we_ask() -> bool:
    """Whether torchstone does, directly or through the standard library, and not a library for itself."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(SOURCE) or "site-packages" in name:
            return name.startswith(SOURCE)
        frame = frame.f_back  # type: ignore[assignment]
    return False


sysconfig.get_config_vars()  # reads a file that is named after the platform
take_away()
hide_files()
sys.platform = "darwin"
multiprocessing.set_start_method("spawn", force=True)
