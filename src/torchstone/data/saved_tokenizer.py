"""The folder of a saved tokenizer: its files, and a description that vouches for them by hash.

The description is written last, so a folder without one was never finished.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchstone import _files
from torchstone._errors import DataError

DESCRIPTION = "torchstone_tokenizer.json"


def describe(folder: Path, kind: str, texts: dict[str, str]) -> None:
    """Write `texts` as files of `folder`, then the description."""
    hashes = {}
    for name, text in texts.items():
        _files.write_text(folder / name, text)
        hashes[name] = _files.sha256_bytes(text.encode())
    _files.write_json(
        folder / DESCRIPTION, {"schema": "torchstone.tokenizer/1", "kind": kind, "files": hashes}
    )


def read_description(folder: Path) -> dict[str, Any]:
    """What `describe` wrote, after proving that the files beside it are still the same."""
    try:
        description = dict(_files.read_json(folder / DESCRIPTION))
        changed = [
            name for name, sha256 in description["files"].items() if _files.sha256(folder / name) != sha256
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as damage:
        raise DataError(
            "the saved tokenizer is damaged", where=str(folder), why=f"{type(damage).__name__}: {damage}"
        ) from None
    if changed:
        raise DataError("the tokenizer's file has changed since it was saved", where=str(folder / changed[0]))
    return description
