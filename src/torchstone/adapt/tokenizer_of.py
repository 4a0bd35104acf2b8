"""The tokenizer that belongs to a TARGET: a run's own, the one that lies in a model's folder, the hub's.

A model without one stays without: none is made up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchstone._errors import DataError, UsageError
from torchstone.adapt.target import Target, parse_target
from torchstone.data.saved_tokenizer import DESCRIPTION
from torchstone.data.tokenizer import Tokenizer, load_tokenizer
from torchstone.data.tokenizer_formats import tokenizer_files

TOKENIZER = "tokenizer"
"""Its folder inside a run."""


def find_tokenizer(target: str | Path, wanted: str | Path | None = None) -> Tokenizer | None:
    """`wanted` is a file, a folder, or `bytes`; without it the target's own tokenizer, or None."""
    if wanted is not None:
        return _named(wanted)
    found = parse_target(target)
    if found.kind in ("hf", "gpt2"):
        return _from_hub(found.value)
    folder = home_of(found)
    if found.kind in ("folder", "file"):
        folder = found.path if found.kind == "folder" else found.path.parent
    if folder is None:
        return None
    for place in (folder / TOKENIZER, folder):
        if (place / DESCRIPTION).is_file() or tokenizer_files(place):
            return load_tokenizer(place)
    return None


def require_tokenizer(target: str | Path, wanted: str | Path | None, why: str) -> Tokenizer:
    """As `find_tokenizer`; none is an error that says what to type."""
    tokenizer = find_tokenizer(target, wanted)
    if tokenizer is None:
        raise DataError(
            f"{target} has no tokenizer",
            why=why,
            next="--tokenizer bytes, a tokenizer.json or the folder of one",
        )
    return tokenizer


def require_fit(tokenizer: Tokenizer, vocab_size: int | None) -> None:
    """A tokenizer with more entries than the embedding has rows belongs to another model."""
    if vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise DataError(
            "the tokenizer is larger than the model's vocabulary",
            why=f"it has {tokenizer.vocab_size} entries, the embedding {vocab_size} rows",
            next="use the tokenizer that the model was trained with: --tokenizer FILE",
        )


def home_of(target: Target) -> Path | None:
    """The run folder of a run or of one of its checkpoints."""
    if target.kind == "run":
        return target.path
    return target.path.resolve().parent.parent if target.kind == "checkpoint" else None


def _named(wanted: str | Path) -> Tokenizer:
    if str(wanted) == "bytes":
        from torchstone.data.byte_tokenizer import ByteTokenizer

        return ByteTokenizer()
    path = Path(wanted).expanduser()
    if not path.exists():
        raise UsageError(f"there is no tokenizer {wanted}", next="give bytes, a tokenizer.json or its folder")
    return load_tokenizer(path / TOKENIZER if (path / TOKENIZER).is_dir() else path)


def _from_hub(name: str) -> Tokenizer | None:
    folder = Path(name)
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    from torchstone._optional import require
    from torchstone.adapt.huggingface import local_only, quiet
    from torchstone.data.tokenizer_file import FileTokenizer

    transformers = require("transformers", "hf")
    with quiet(transformers):
        try:
            made: Any = transformers.AutoTokenizer.from_pretrained(
                name, trust_remote_code=False, local_files_only=local_only(name)
            )
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError):
            return None  # the library's ways to say that there is none, or none that it can read
    library = getattr(made, "backend_tokenizer", None)
    if library is None:
        return None
    return FileTokenizer(library, pad=made.pad_token, eos=made.eos_token)
