"""Data: task specs, sources of text, tokenizers, token blocks and the loader that can resume.

The names below are imported when first used; nothing here imports torch by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily

_HOMES = {
    "Corpus": "torchstone.data.source",
    "Document": "torchstone.data.source",
    "Loader": "torchstone.data.loader",
    "TaskSpec": "torchstone.data.task",
    "TokenBlocks": "torchstone.data.pack",
    "Tokenizer": "torchstone.data.tokenizer",
    "as_dataset": "torchstone.data.dataset",
    "build_tokenizer": "torchstone.data.tokenizer",
    "load_tokenizer": "torchstone.data.tokenizer",
    "read_source": "torchstone.data.source",
}

__all__ = [
    "Corpus",
    "Document",
    "Loader",
    "TaskSpec",
    "TokenBlocks",
    "Tokenizer",
    "as_dataset",
    "build_tokenizer",
    "load_tokenizer",
    "read_source",
]

if TYPE_CHECKING:
    from torchstone.data.dataset import as_dataset as as_dataset
    from torchstone.data.loader import Loader as Loader
    from torchstone.data.pack import TokenBlocks as TokenBlocks
    from torchstone.data.source import Corpus as Corpus
    from torchstone.data.source import Document as Document
    from torchstone.data.source import read_source as read_source
    from torchstone.data.task import TaskSpec as TaskSpec
    from torchstone.data.tokenizer import Tokenizer as Tokenizer
    from torchstone.data.tokenizer import build_tokenizer as build_tokenizer
    from torchstone.data.tokenizer import load_tokenizer as load_tokenizer

__getattr__, __dir__ = lazily(__name__, _HOMES)
