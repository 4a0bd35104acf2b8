"""Prove a bundle again: in another folder, as another user, on another machine.

The code is that of the bundle's own `verify.py`, taken from this installation: a stranger's copy is not run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torchstone.export.standalone.runtimes import MANIFEST


def is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def verify_bundle(folder: Path) -> dict[str, Any]:
    """The `torchstone.verify-bundle/1` object."""
    from torchstone.export.standalone.verify import verify

    began = time.monotonic()
    return verify(folder) | {"seconds": round(time.monotonic() - began, 3)}
