"""Texts to blocks of tokens: encoded once, kept on disk, mapped into memory.

    packed = pack(corpus, tokenizer, sequence_length=128)
    packed.train.batch([0, 5])["input_ids"]                       # (2, 128)

The documents of a split follow each other with the end-of-document token between them; block i is the tokens
from i*T to (i+1)*T, and the rest behind the last whole block is left out. The flat stream is cached by the
content of text and tokenizer, so every sequence length shares it. Order and batches are the loader's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from torchstone import _files
from torchstone._errors import DataError
from torchstone.data.cache import cache_folder, cache_key
from torchstone.data.source import Corpus, Document
from torchstone.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

BATCH_CHARACTERS = 1 << 20
"""Text encoded at a time: enough work for every core, little memory."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class TokenBlocks:
    """A stream of tokens seen as blocks of `sequence_length`; a shorter stream is one short block."""

    def __init__(
        self,
        tokens: np.ndarray[Any, Any],
        sequence_length: int,
        *,
        fingerprint: str = "",
        num_text_bytes: int = 0,
    ) -> None:
        if len(tokens) < 2:
            raise DataError(
                f"the text has {len(tokens)} tokens",
                why="a next token needs one before it",
                next="give more text",
            )
        self.tokens = tokens
        self.sequence_length = min(sequence_length, len(tokens))
        self.fingerprint = f"{fingerprint}/{self.sequence_length}"
        self.num_text_bytes = num_text_bytes
        """Bytes of UTF-8 that the stream stands for (end-of-document tokens stand for none)."""

    def __len__(self) -> int:
        return len(self.tokens) // self.sequence_length

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The blocks of `indices`; labels are the ids themselves, for the loss shifts them."""
        T = self.sequence_length
        rows = np.empty((len(indices), T), dtype=np.int64)
        for row, index in enumerate(indices):
            rows[row] = self.tokens[index * T : (index + 1) * T]
        ids = torch.from_numpy(rows)
        return {"input_ids": ids, "labels": ids.clone()}


@dataclass(frozen=True)
class PackedCorpus:
    """Both splits; `val` is None where the split is empty."""

    train: TokenBlocks
    val: TokenBlocks | None


def pack(
    corpus: Corpus,
    tokenizer: Tokenizer,
    sequence_length: int,
    *,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> PackedCorpus:
    """Encode `corpus` unless the cache has it already."""
    folder = cache_folder(cache_dir) / "tokens"
    train = _blocks(corpus, "train", tokenizer, sequence_length, folder, on_progress)
    val = _blocks(corpus, "val", tokenizer, sequence_length, folder, on_progress) if corpus.val else None
    return PackedCorpus(train, val)


def _blocks(
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    sequence_length: int,
    folder: Path,
    on_progress: Progress | None,
) -> TokenBlocks:
    key = cache_key(
        {"format": "tokens/1", "text": corpus.content_hash(split), "tokenizer": tokenizer.fingerprint}
    )
    path = folder / f"{key}.npy"
    record = _verified(path)
    if record is None:
        record = _encode(corpus, split, tokenizer, path, on_progress)
    tokens = np.load(path, mmap_mode="r")
    return TokenBlocks(tokens, sequence_length, fingerprint=key, num_text_bytes=record["num_text_bytes"])


def _verified(path: Path) -> dict[str, Any] | None:
    """The record of a cached stream whose content is proven; None: encode it (again)."""
    record_path = path.with_suffix(".json")
    if not record_path.exists():
        return None
    try:
        record = dict(_files.read_json(record_path))
        if _files.sha256(path) == record["sha256"] and record["num_text_bytes"] >= 0:
            return record
        damage = "its content is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as problem:
        damage = str(problem)
    log.warning("the cached tokens %s are damaged and will be made again: %s", path, damage)
    return None


def _encode(
    corpus: Corpus, split: str, tokenizer: Tokenizer, path: Path, on_progress: Progress | None
) -> dict[str, Any]:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    num_tokens = num_text_bytes = 0
    num_bytes = corpus.num_bytes(split)
    with _files.replacing(path) as partial, partial.open("wb") as stream:
        _write_header(stream, dtype, 0)
        for documents in _batches(corpus.documents(split)):
            tokens = _tokens_of(documents, tokenizer, dtype)
            stream.write(tokens.tobytes())
            num_tokens += len(tokens)
            num_text_bytes += sum(len(document.text.encode()) for document in documents)
            if on_progress is not None:
                on_progress(num_text_bytes, num_bytes)
        stream.seek(0)
        _write_header(stream, dtype, num_tokens)
    record = {
        "schema": "torchstone.tokens/1",
        "sha256": _files.sha256(path),
        "num_tokens": num_tokens,
        "num_text_bytes": num_text_bytes,
    }
    _files.write_json(path.with_suffix(".json"), record)
    return record


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    held: list[Document] = []
    num_characters = 0
    for document in documents:
        held.append(document)
        num_characters += len(document.text)
        if num_characters >= BATCH_CHARACTERS:
            yield held
            held, num_characters = [], 0
    if held:
        yield held


def _tokens_of(
    documents: Sequence[Document], tokenizer: Tokenizer, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    eos = tokenizer.eos_token_id
    flat: list[int] = []
    for document, ids in zip(
        documents, tokenizer.encode_batch([each.text for each in documents]), strict=True
    ):
        flat += ids
        if document.ends and eos is not None:
            flat.append(eos)
    if flat and max(flat) >= tokenizer.vocab_size:
        raise DataError(f"the tokenizer gave id {max(flat)} and says it has {tokenizer.vocab_size} entries")
    return np.array(flat, dtype=dtype)


def _write_header(stream: BinaryIO, dtype: np.dtype[Any], num_tokens: int) -> None:
    """The header of a .npy file; numpy pads it so that any length takes the same room."""
    description = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (num_tokens,)}
    np.lib.format.write_array_header_1_0(stream, description)
