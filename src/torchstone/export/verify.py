"""Prove a bundle again: in another folder, as another user, on another machine.

The code is that of the bundle's own `verify.py`, taken from this installation: a stranger's copy is not run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone.export.standalone.runtimes import MANIFEST


def is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def verify_bundle(path: Path, only: Sequence[str] = ()) -> dict[str, Any]:
    """The `torchstone.verify-bundle/1` object, of a bundle's folder or of its archive; `only` names formats.

    Errors: ArchiveRefused and DataError, as `unpack`.
    """
    from torchstone.export.archive import is_archive, unpack
    from torchstone.export.standalone.verify import verify

    began = time.monotonic()
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix="torchstone-bundle-") as place:
            found = verify(unpack(path, Path(place) / "bundle"), only) | {"path": str(path)}
    else:
        found = verify(path, only)
    return found | {"seconds": round(time.monotonic() - began, 3)}
