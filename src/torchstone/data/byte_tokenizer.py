"""One token per byte of UTF-8, and two specials: needs nothing, loses nothing, compresses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchstone._errors import DataError
from torchstone.data.saved_tokenizer import describe

PAD, EOS = 256, 257


class ByteTokenizer:
    """Ids 0 to 255 are the bytes themselves."""

    vocab_size = 258
    pad_token_id: int | None = PAD
    eos_token_id: int | None = EOS
    fingerprint = "bytes/1"

    def encode(self, text: str) -> list[int]:
        return list(bytes_of(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        for each in ids:
            if not 0 <= each < self.vocab_size:
                raise unknown_id(each, self.vocab_size)
        return text_of(bytes(each for each in ids if each < PAD))

    def byte_lengths(self) -> list[int] | None:
        return [1] * PAD + [0, 0]

    def save(self, folder: Path) -> None:
        describe(Path(folder), "bytes", {})


def bytes_of(text: str) -> bytes:
    """UTF-8; a lone surrogate, which is no text but may stand in a Python string, keeps its three bytes."""
    return text.encode("utf-8", "surrogatepass")


def text_of(data: bytes) -> str:
    """The inverse of `bytes_of`; what a model makes up may be no UTF-8 and is then marked by U+FFFD."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def unknown_id(token_id: int, vocab_size: int) -> DataError:
    return DataError(
        f"token id {token_id} is outside the tokenizer's vocabulary", why=f"it has {vocab_size} entries"
    )
