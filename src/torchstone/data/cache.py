"""Where derived data is kept between runs, and under which name.

The name is a hash of everything that the content depends on, so a cache is never stale; readers prove a
content hash before they believe it, and rebuild what is damaged. Deleting the folder is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The argument, else TORCHSTONE_CACHE, else a folder of the user."""
    if cache_dir is not None:
        return Path(cache_dir)
    named = os.environ.get("TORCHSTONE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "torchstone"


def cache_key(ingredients: dict[str, Any]) -> str:
    """A short name that changes with any ingredient."""
    canonical = json.dumps(ingredients, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:24]
