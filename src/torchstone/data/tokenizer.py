"""Text to token ids and back: the protocol, and the choice of a tokenizer.

    tokenizer = build_tokenizer(config, corpus, vocab_size=2048, cache_dir=None)
    tokenizer.decode(tokenizer.encode("def f():")) == "def f():"

`auto` trains a byte-level BPE on the training split, once: the result is cached by the content of the text.
The vocabulary is never larger than the rows of the model's embedding; where the text yields fewer tokens, it
is honestly smaller. Which kind is taken, and what follows where it cannot be had, is in `tokenizer_tiers`.
Neither packing nor batching happens here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torchstone._errors import ConfigError, DataError
from torchstone.data.cache import cache_folder, cache_key
from torchstone.data.config import DataConfig
from torchstone.data.saved_tokenizer import DESCRIPTION, read_description
from torchstone.data.source import Corpus

log = logging.getLogger(__name__)

DEFAULT_VOCAB_SIZE = 4096


class Tokenizer(Protocol):
    """Every text to ids in [0, vocab_size) and back without loss."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_token_id(self) -> int | None: ...

    @property
    def eos_token_id(self) -> int | None:
        """Marks the end of a document."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints encode equally."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens; bytes that are no text become U+FFFD."""

    def byte_lengths(self) -> list[int] | None:
        """Bytes of UTF-8 that each token stands for (marks stand for none), in every text; None where a
        text may be changed before it is cut."""

    def save(self, folder: Path) -> None: ...


def build_tokenizer(
    config: DataConfig, corpus: Corpus, vocab_size: int | None, cache_dir: Path | None = None
) -> Tokenizer:
    """The tokenizer that `config.tokenizer` names, for a model with `vocab_size` embedding rows."""
    from torchstone.data.tokenizer_tiers import choose_tokenizer

    wanted = config.tokenizer_vocab_size or vocab_size or DEFAULT_VOCAB_SIZE
    if vocab_size is not None and wanted > vocab_size:
        raise ConfigError(
            f"data.tokenizer_vocab_size={wanted} is more than the model's vocabulary of {vocab_size}",
            why="ids beyond the embedding have no row",
            next=f"--set data.tokenizer_vocab_size={vocab_size} or less, or give the model more rows",
        )
    if config.tokenizer_vocab_size is not None and config.tokenizer not in ("auto", "bpe", "char"):
        raise ConfigError(
            f"data.tokenizer_vocab_size has no effect on data.tokenizer={config.tokenizer}",
            why="only a trained tokenizer can be given a size",
            next="leave it out, or --set data.tokenizer=auto",
        )
    choice = choose_tokenizer(
        wanted,
        lambda: (document.text for document in corpus.documents("train")),
        prefer=config.tokenizer,
        train=lambda size: _trained(corpus, size, cache_dir),
        limit=vocab_size,
    )
    for line in choice.fallbacks:
        log.warning("tokenizer: %s", line)
    log.info("tokenizer: %s", choice.reason)
    return choice.tokenizer


def load_tokenizer(path: Path | str) -> Tokenizer:
    """A tokenizer that `save` wrote, or the user's own: every format of `tokenizer_formats`, or a folder."""
    path = Path(path).expanduser()
    if (path / DESCRIPTION).is_file():
        return _load_saved(path)
    from torchstone.data.tokenizer_formats import open_tokenizer

    return open_tokenizer(path)


def _load_saved(folder: Path) -> Tokenizer:
    kind = read_description(folder).get("kind")
    if kind == "bytes":
        from torchstone.data.byte_tokenizer import ByteTokenizer

        return ByteTokenizer()
    if kind == "bpe":
        from torchstone.data.bpe import BytePairTokenizer

        return BytePairTokenizer.load(folder)
    if kind == "char":
        from torchstone.data.char_tokenizer import CharTokenizer

        return CharTokenizer.load(folder)
    if kind == "file":
        from torchstone.data.tokenizer_file import FileTokenizer

        return FileTokenizer.load(folder / "tokenizer.json")
    if kind == "sentencepiece":
        from torchstone.data.sentencepiece_tokenizer import FILE, SentencePieceTokenizer

        return SentencePieceTokenizer.load(folder / FILE)
    raise DataError(
        f"{DESCRIPTION} names no kind of tokenizer that this version knows",
        where=str(folder),
        why=f"it says kind={kind!r}",
    )


def _trained(corpus: Corpus, vocab_size: int, cache_dir: Path | None) -> Tokenizer:
    from torchstone.data.bpe import BytePairTokenizer, train_bpe, training_recipe

    recipe = training_recipe(vocab_size)
    folder = (
        cache_folder(cache_dir) / "tokenizers" / cache_key({"text": corpus.content_hash("train"), **recipe})
    )
    if (folder / DESCRIPTION).is_file():
        try:
            read_description(folder)
            return BytePairTokenizer.load(folder)
        except DataError as damage:
            log.warning("the cached tokenizer is damaged and will be trained again: %s", damage)
    tokenizer = train_bpe((document.text for document in corpus.documents("train")), vocab_size)
    if tokenizer.vocab_size < vocab_size:
        log.info("the text yields %d of %d tokens", tokenizer.vocab_size, vocab_size)
    tokenizer.save(folder)
    return tokenizer
