"""A SentencePiece .model, encoded and decoded by its own library.

Most such models change the text before they cut it (NFKC, runs of spaces); what they change is lost, and the
validator says so. A piece that spells a control token in a text stays text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.saved_tokenizer import describe
from torchstone.data.tokenizer_calls import TokenizerCalls
from torchstone.data.tokenizer_file import LOST, SPACE, unicode_of

FILE = "tokenizer.model"


class SentencePieceTokenizer(TokenizerCalls):
    """`model` is the content of the file."""

    unicode_only = True
    normalises = True
    """As far as is known: the library does not tell its rules."""

    def __init__(self, model: bytes) -> None:
        library = require("sentencepiece", "tokenize")
        self._model = model
        self._library: Any = library.SentencePieceProcessor(model_proto=model)
        self.vocab_size = int(self._library.get_piece_size())
        self.pad_token_id: int | None = _existing(self._library.pad_id())
        self.eos_token_id: int | None = _existing(self._library.eos_id())
        self._specials = {
            self._library.id_to_piece(each): each
            for each in range(self.vocab_size)
            if self._library.is_control(each)
        }
        self.fingerprint = "sentencepiece/" + hashlib.sha256(model).hexdigest()

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(unicode_of(text), out_type=int))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._library.encode([unicode_of(text) for text in texts], out_type=int)]

    def byte_lengths(self) -> list[int] | None:
        return None

    def spelled_lengths(self) -> list[int]:
        """Bytes that each piece spells, if the text was not changed before."""
        library = self._library

        def length(place: int) -> int:
            if library.is_unknown(place):
                return LOST
            if library.is_control(place) or library.is_unused(place):
                return 0
            return (
                1 if library.is_byte(place) else len(library.id_to_piece(place).replace(SPACE, " ").encode())
            )

        return [length(place) for place in range(self.vocab_size)]

    def special_tokens(self) -> dict[str, int]:
        return dict(self._specials)

    def save(self, folder: Path) -> None:
        describe(Path(folder), "sentencepiece", {FILE: self._model})

    @classmethod
    def load(cls, file: Path) -> SentencePieceTokenizer:
        model = Path(file).read_bytes()
        require("sentencepiece", "tokenize")
        try:
            if not model:
                raise ValueError("the file is empty")
            return cls(model)
        except (RuntimeError, ValueError, OSError) as damage:
            raise DataError(
                "this is no SentencePiece model",
                where=str(file),
                why=str(damage),
                next="give the .model that spm_train wrote, or a tokenizer.json",
            ) from None

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._library.decode([each for each in ids if not self._library.is_control(each)]))


def _existing(token_id: int) -> int | None:
    return int(token_id) if token_id >= 0 else None
