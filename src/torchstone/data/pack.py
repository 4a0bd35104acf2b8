"""Texts to blocks of tokens: encoded once, kept on disk, mapped into memory.

    packed = pack(corpus, tokenizer, sequence_length=128)
    packed.train.batch([0, 5])["input_ids"]                       # (2, 128)

The documents of a split follow each other with the end-of-document token between them; block i is the tokens
from i*T to (i+1)*T, and the rest behind the last whole block is left out. The flat stream is cached by the
content of text and tokenizer, so every sequence length shares it. Order and batches are the loader's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchstone._errors import DataError, TorchstoneError, TryAgain
from torchstone.data.cache import cache_folder, cache_key
from torchstone.data.documents import Boundaries, separated
from torchstone.data.encoding import OtherIds, make_encoder, without_engine
from torchstone.data.mapped import at_place, place_of
from torchstone.data.source import Corpus
from torchstone.data.token_store import SCHEMA, TokenWriter, alone, open_stored, told_when_full
from torchstone.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

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
        ends: np.ndarray[Any, Any] | None = None,
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
        self.ends = ends
        """Where the documents are over, as places in the stream, ascending; None: nobody knows."""
        self._boundaries: Boundaries | None = None
        self._causal = True
        self.num_text_bytes = num_text_bytes
        """Bytes of UTF-8 that the stream stands for (end-of-document tokens stand for none)."""

    def __len__(self) -> int:
        return len(self.tokens) // self.sequence_length

    def __getstate__(self) -> dict[str, Any]:
        return {name: place_of(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: at_place(value) for name, value in state.items()})

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The blocks of `indices`; labels are the ids themselves, for the loss shifts them."""
        T = self.sequence_length
        rows = np.empty((len(indices), T), dtype=np.int64)
        for row, index in enumerate(indices):
            rows[row] = self.tokens[index * T : (index + 1) * T]
        ids = torch.from_numpy(rows)
        batch = {"input_ids": ids, "labels": ids.clone()}
        if self._boundaries is None:
            return batch
        return separated(batch, torch.from_numpy(self.documents(indices, rows)), causal=self._causal)

    def separate(self, *, causal: bool, eos_token_id: int | None = None) -> None:
        """From now on documents of a block do not see each other; `causal`: nor does a token the later ones.

        `eos_token_id` marks the ends where the stream brings none.
        """
        self._boundaries, self._causal = Boundaries(self.ends, eos_token_id), causal
        self.fingerprint += "/documents"

    def documents(self, indices: Sequence[int], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(B, T): of each token of the blocks `rows`, the number of its document in the block."""
        assert self._boundaries is not None
        T = self.sequence_length
        numbers = [self._boundaries.numbers(index * T, row) for index, row in zip(indices, rows, strict=True)]
        return np.stack(numbers)


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
        {"format": SCHEMA, "text": corpus.content_hash(split), "tokenizer": tokenizer.fingerprint}
    )
    path = folder / f"{key}.npy"
    stored = open_stored(path)
    if stored is None:
        with told_when_full(path), alone(path):
            stored = open_stored(path)  # another process may have made it meanwhile
            if stored is None:
                _encode(corpus, split, tokenizer, path, on_progress)
                stored = open_stored(path)
    if stored is None:
        raise TryAgain(
            "the tokens were written, and are not what was written",
            where=str(path),
            why="the disk lies, or someone changes the cache",
            next="set TORCHSTONE_CACHE to a folder on another disk",
        )
    return TokenBlocks(
        stored.ids,
        sequence_length,
        fingerprint=key,
        num_text_bytes=stored.num_text_bytes,
        ends=stored.ends,
    )


def _encode(
    corpus: Corpus, split: str, tokenizer: Tokenizer, path: Path, on_progress: Progress | None
) -> None:
    """Write the stream, from where an earlier encode was stopped."""
    encoder = make_encoder(tokenizer, (document.text for document in corpus.documents(split)))
    writer = TokenWriter(path, encoder.dtype)
    num_bytes = corpus.num_bytes(split)
    while True:
        rest = islice(corpus.documents(split), writer.done.pieces, None)
        try:
            with closing(encoder.chunks(rest)) as chunks:
                for now in writer.write(chunks):
                    if on_progress is not None:
                        on_progress(now.text_bytes, num_bytes)
            writer.finish()
            return
        except OtherIds as problem:  # then what came before may be wrong as well
            writer.discard()
            encoder = without_engine(tokenizer, problem)
        except OSError:
            writer.cut()
            raise
        except TorchstoneError:
            writer.discard()
            raise
