"""The folder of a saved tokenizer: its files, and a description that vouches for them by hash.

The description is written last, so a folder without one was never finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone import _files
from torchstone._errors import DataError

DESCRIPTION = "torchstone_tokenizer.json"


def describe(folder: Path, kind: str, contents: Mapping[str, str | bytes]) -> None:
    """Write `contents` as files of `folder`, then the description."""
    hashes = {}
    for name, content in contents.items():
        data = content.encode() if isinstance(content, str) else content
        _files.write_bytes(folder / name, data)
        hashes[name] = _files.sha256_bytes(data)
    _files.write_json(
        folder / DESCRIPTION, {"schema": "torchstone.tokenizer/1", "kind": kind, "files": hashes}
    )


def hub_config(pad: str | None, eos: str | None, **more: Any) -> dict[str, str]:
    """The file by which `transformers.AutoTokenizer` reads the tokenizer.json beside it as we do: what spells
    a special token inside a text stays text."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "eos_token": eos,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        **more,
    }
    kept = {key: value for key, value in config.items() if value is not None}
    return {"tokenizer_config.json": json.dumps(kept, indent=2)}


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
