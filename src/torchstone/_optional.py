"""Imports of optional dependencies: the module, or the pip line that brings it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from torchstone._errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import `module`; when absent, name the extra of torchstone that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        # A broken import inside the dependency is its own fault and must stay visible.
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        raise missing_extra(module, extra) from None


def missing_extra(module: str, extra: str) -> MissingExtra:
    """The error that says what brings `module`."""
    return MissingExtra(
        f"{module} is not installed",
        why=f"it comes with the extra [{extra}]",
        next=f"pip install 'torchstone[{extra}]'",
    )


def available(module: str) -> bool:
    """Whether `module` can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
