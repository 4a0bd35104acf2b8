"""A user's own `tokenizer.json`, in the format of the `tokenizers` library, taken as it is.

Nothing is added or repaired. Special tokens that stand literally in a text stay text, as everywhere here;
pad and end-of-document are recognised among the file's own added tokens, and are None where it has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.bpe import byte_of_character
from torchstone.data.byte_tokenizer import unknown_id
from torchstone.data.saved_tokenizer import describe

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")
EOS_NAMES = ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "[SEP]")


class FileTokenizer:
    """The library's own encoding and decoding, without the marks that a template would add."""

    def __init__(self, library: Library) -> None:
        library.no_padding()
        library.no_truncation()  # a limit baked into the file would silently drop text
        library.encode_special_tokens = True
        self._library = library
        vocabulary = library.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        added = {token.content for token in library.get_added_tokens_decoder().values()}
        self.pad_token_id: int | None = _first(PAD_NAMES, vocabulary, added)
        self.eos_token_id: int | None = _first(EOS_NAMES, vocabulary, added)
        self.fingerprint = "file/" + hashlib.sha256(library.to_str().encode()).hexdigest()

    @property
    def library(self) -> Library:
        """For engines that do its work faster."""
        return self._library

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def encode_marked(self, text: str) -> list[int]:
        """As the file's own template has it, with the marks of beginning and end that it adds."""
        return list(self._library.encode(text, add_special_tokens=True).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in self._library.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        for each in ids:
            if not 0 <= each < self.vocab_size:
                raise unknown_id(each, self.vocab_size)
        return str(self._library.decode(list(ids), skip_special_tokens=True))

    def byte_lengths(self) -> list[int] | None:
        """Known where the file spells bytes (GPT-2's way) and changes no letter before."""
        parts = json.loads(self._library.to_str())
        if (parts["decoder"] or {}).get("type") != "ByteLevel" or parts["normalizer"] is not None:
            return None
        byte_of = byte_of_character()
        added = self._library.get_added_tokens_decoder()
        lengths = [0] * self.vocab_size
        for token, token_id in self._library.get_vocab(with_added_tokens=True).items():
            if token_id in added:
                lengths[token_id] = 0 if added[token_id].special else len(token.encode())
            else:
                lengths[token_id] = sum(letter in byte_of for letter in token)
        return lengths

    def save(self, folder: Path) -> None:
        describe(Path(folder), "file", {"tokenizer.json": self._library.to_str()})

    @classmethod
    def load(cls, file: Path) -> FileTokenizer:
        tokenizers = require("tokenizers", "tokenize")
        try:
            library = tokenizers.Tokenizer.from_file(str(file))
        except Exception as damage:  # the library raises plain Exception for whatever it cannot read
            raise DataError(
                "this is no tokenizer.json",
                where=str(file),
                why=str(damage),
                next="give a file that tokenizers.Tokenizer.save wrote, or auto or bytes",
            ) from None
        if not library.get_vocab_size(with_added_tokens=True):
            raise DataError("the tokenizer has no entries", where=str(file))
        return cls(library)


def _first(names: Sequence[str], vocabulary: dict[str, int], added: set[str]) -> int | None:
    return next((vocabulary[name] for name in names if name in added), None)
