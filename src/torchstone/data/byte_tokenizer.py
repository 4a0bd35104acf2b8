"""One token per byte of UTF-8, and two specials: needs nothing, loses nothing, compresses nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torchstone.data.saved_tokenizer import describe, hub_config
from torchstone.data.tokenizer_calls import TokenizerCalls

PAD, EOS = 256, 257


class ByteTokenizer(TokenizerCalls):
    """Ids 0 to 255 are the bytes themselves."""

    vocab_size = 258
    pad_token_id: int | None = PAD
    eos_token_id: int | None = EOS
    fingerprint = "bytes/1"

    def encode(self, text: str) -> list[int]:
        return list(bytes_of(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def byte_lengths(self) -> list[int] | None:
        return [1] * PAD + [0, 0]

    def special_tokens(self) -> dict[str, int]:
        return {"<pad>": PAD, "<eos>": EOS}

    def save(self, folder: Path) -> None:
        from torchstone.data.char_tokenizer import library_file

        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        letters = character_of_byte()
        written = library_file(
            {letters[byte]: byte for byte in range(256)} | self.special_tokens(),
            specials=self.special_tokens(),
            pre_tokenizer=byte_level,
            decoder=byte_level,
        )
        file = json.dumps(written, ensure_ascii=False)
        describe(Path(folder), "bytes", {"tokenizer.json": file, **hub_config("<pad>", "<eos>")})

    def _text(self, ids: Sequence[int]) -> str:
        return text_of(bytes(each for each in ids if each < PAD))


def bytes_of(text: str) -> bytes:
    """UTF-8; a lone surrogate, which is no text but may stand in a Python string, keeps its three bytes."""
    return text.encode("utf-8", "surrogatepass")


def text_of(data: bytes) -> str:
    """The inverse of `bytes_of`; what a model makes up may be no UTF-8 and is then marked by U+FFFD."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def character_of_byte() -> dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for 256 and up."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    return {byte: chr(byte) for byte in itself} | {byte: chr(256 + i) for i, byte in enumerate(others)}
