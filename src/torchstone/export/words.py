"""The tokenizer's files in the bundle, in the form that other tools read, proven by reading them back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchstone._errors import DataError

if TYPE_CHECKING:
    from torchstone.export.source import Source

FILE = "tokenizer.json"


def write(source: Source, folder: Path, texts: list[dict[str, object]]) -> list[str]:
    """Write the tokenizer; DataError if it does not come back as it was. Notes for the reader."""
    words = source.tokenizer
    if words is None:
        return []
    words.save(folder)
    from torchstone.data.tokenizer import load_tokenizer

    again = load_tokenizer(folder)
    for each in texts:
        text = str(each["text"])
        encode = getattr(again, "encode_marked", again.encode) if each["marks"] else again.encode
        if list(encode(text)) != each["ids"]:
            raise DataError(
                "the tokenizer is not the same when it is read back",
                where=FILE,
                why=f"other ids for {text!r}",
            )
    if not (folder / FILE).is_file():
        return [f"inference.py takes ids only: this tokenizer has no {FILE}"]
    return []
