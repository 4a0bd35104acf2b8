"""Byte-level BPE, trained with the `tokenizers` library: any vocabulary from 258 up, any text without loss.

Sennrich et al. 2015 (arXiv:1508.07909) over bytes as in GPT-2 (Radford et al. 2019). The 256 bytes are always
in the vocabulary, so every text has ids. What looks like a special token inside a text stays plain text: a
document cannot inject an end-of-document mark.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import ConfigError, DataError
from torchstone._optional import require
from torchstone.data.byte_tokenizer import bytes_of, character_of_byte, text_of
from torchstone.data.saved_tokenizer import describe, hub_config
from torchstone.data.tokenizer_calls import TokenizerCalls

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, EOS = "<pad>", "<eos>"
UNUSED = "<unused_"
MIN_VOCAB_SIZE = 256 + 2
MIN_FREQUENCY = 2
SAMPLE_BYTES = 32 << 20
"""Text that merges are learned from; a corpus stands in seeded order, so its head is a fair sample."""

SURROGATES = re.compile("([\ud800-\udfff]+)")


class BytePairTokenizer(TokenizerCalls):
    """A trained tokenizer; `pad` and `eos` are ids 0 and 1."""

    def __init__(self, library: Library) -> None:
        # Texts are data: "<eos>" inside one is five characters. The library does not save this choice.
        library.encode_special_tokens = True
        self._library = library
        vocabulary = library.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        self.pad_token_id: int | None = vocabulary[PAD]
        self.eos_token_id: int | None = vocabulary[EOS]
        byte_of = byte_of_character()
        self._specials = {
            each.content: token_id for token_id, each in library.get_added_tokens_decoder().items()
        }
        self._bytes_of_id = [b""] * self.vocab_size
        for token, token_id in vocabulary.items():
            if token not in self._specials:
                self._bytes_of_id[token_id] = bytes(byte_of[character] for character in token)
        self._id_of_byte = {
            data[0]: token_id for token_id, data in enumerate(self._bytes_of_id) if len(data) == 1
        }
        self.fingerprint = "bpe/" + hashlib.sha256(library.to_str().encode()).hexdigest()

    @property
    def library(self) -> Library:
        """For engines that do its work faster."""
        return self._library

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in SURROGATES.split(text):
            if SURROGATES.match(piece):  # no UTF-8 for the library: spell the bytes
                ids += [self._id_of_byte[each] for each in bytes_of(piece)]
            elif piece:
                ids += self._library.encode(piece, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """All cores at work; texts with lone surrogates go one by one."""
        if any(SURROGATES.search(text) for text in texts):
            return [self.encode(text) for text in texts]
        return [each.ids for each in self._library.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _text(self, ids: Sequence[int]) -> str:
        return text_of(b"".join(self._bytes_of_id[each] for each in ids))

    @property
    def num_unused(self) -> int:
        """Entries that only fill the vocabulary to its size."""
        return sum(name.startswith(UNUSED) for name in self._specials)

    def special_tokens(self) -> dict[str, int]:
        return dict(self._specials)

    def byte_lengths(self) -> list[int] | None:
        return [len(each) for each in self._bytes_of_id]

    def save(self, folder: Path) -> None:
        """`tokenizer.json`, as other tools read it, and our description beside it."""
        describe(Path(folder), "bpe", {"tokenizer.json": self._library.to_str(), **hub_config(PAD, EOS)})

    @classmethod
    def load(cls, folder: Path) -> BytePairTokenizer:
        tokenizers = require("tokenizers", "tokenize")
        file = Path(folder) / "tokenizer.json"
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as damage:  # the library raises plain Exception for whatever it cannot read
            raise DataError("the saved tokenizer is damaged", where=str(file), why=str(damage)) from None


def train_bpe(
    texts: Iterable[str], vocab_size: int, sample_bytes: int = SAMPLE_BYTES, *, pad_size: bool = False
) -> BytePairTokenizer:
    """Learn at most `vocab_size` tokens; the same texts give the same tokens on any number of cores.

    `pad_size`: where the texts yield fewer, specials <unused_0>, ... fill the vocabulary to its size.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"a vocabulary of {vocab_size} is too small for text",
            why=f"256 bytes and 2 specials need {MIN_VOCAB_SIZE}",
            next=f"--set model.vocab_size={MIN_VOCAB_SIZE} or more",
        )
    tokenizers = require("tokenizers", "tokenize")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[PAD, EOS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(_sample(texts, sample_bytes), trainer)
    if pad_size:
        missing = vocab_size - library.get_vocab_size(with_added_tokens=True)
        library.add_special_tokens([f"{UNUSED}{place}>" for place in range(missing)])
    return BytePairTokenizer(library)


def training_recipe(vocab_size: int) -> dict[str, Any]:
    """Everything but the text that the outcome of `train_bpe` depends on."""
    return {
        "kind": "bpe/1",
        "vocab_size": vocab_size,
        "min_frequency": MIN_FREQUENCY,
        "sample_bytes": SAMPLE_BYTES,
        "specials": [PAD, EOS],
        "library": require("tokenizers", "tokenize").__version__,
    }


def _sample(texts: Iterable[str], num_bytes: int) -> Iterator[str]:
    left = num_bytes
    for text in texts:
        plain = SURROGATES.sub("", text)
        yield plain
        left -= len(plain.encode())
        if left <= 0:
            return


def byte_of_character() -> dict[str, int]:
    return {letter: byte for byte, letter in character_of_byte().items()}
