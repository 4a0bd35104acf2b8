"""One token per character, and every other character spelled in bytes: any text, 100 to 500,000 entries.

    CharTokenizer.build(1000)                          # the usual scripts, in a fixed order
    CharTokenizer.build(1000, ["the texts", "..."])    # first the characters of the texts, by frequency

Needs no library and no network, so it is the end of every chain of fall-backs. From 258 entries on there is
a token for each byte. Below, the 256 bytes do not fit: bytes that have no token are spelled as two of 32
half-byte tokens. Every entry stands for a character, a byte or half of one; none is a filler.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError, DataError
from torchstone.data.byte_tokenizer import bytes_of, character_of_byte, text_of
from torchstone.data.saved_tokenizer import describe, hub_config
from torchstone.data.tokenizer_calls import TokenizerCalls

PAD, EOS = "<pad>", "<eos>"
MIN_VOCAB_SIZE, MAX_VOCAB_SIZE = 100, 500_000
ALL_BYTES = 2 + 256
"""Entries from which every byte has a token."""
SAMPLE_CHARACTERS = 32 << 20

HIGH, LOW = 0xE000, 0xE010
"""Private characters that name the halves of a byte in tokenizer.json; a text never becomes one of them."""

# What most texts need first; after these, all of Unicode in order. Fixed here, for the tables that Python
# carries differ between its versions.
_FIRST_BYTES = (
    b" etaoinshrdlucmfwypvbgkqjxz\n.,ETAOINSHRDLUCMFWYPVBGKQJXZ0123456789()'\"-_:=;!?/[]{}<>#*+%&@$\t\\|~^`\r"
)
_FIRST_RANGES = (
    (0x20, 0x7F), (0x09, 0x0B), (0x0D, 0x0E), (0xA0, 0x180), (0x370, 0x400), (0x400, 0x460), (0x5D0, 0x5EB),
    (0x620, 0x660), (0x900, 0x970), (0xE00, 0xE60), (0x2010, 0x2040), (0x20A0, 0x20C0), (0x2190, 0x2200),
    (0x3000, 0x3100), (0x1F600, 0x1F650), (0x1F300, 0x1F600), (0x1F680, 0x1F700), (0x1F900, 0x1FA00),
    (0x4E00, 0x9FA6), (0xAC00, 0xD7A4),
)  # fmt: skip


class CharTokenizer(TokenizerCalls):
    """`pieces[i]` is what id i + 2 stands for: a character, a byte, or ("high" or "low", half of a byte)."""

    def __init__(self, characters: Sequence[str], direct_bytes: Sequence[int] | None = None) -> None:
        """`direct_bytes`: None where all 256 have a token; else these have one and the others are halved."""
        self.pad_token_id: int | None = 0
        self.eos_token_id: int | None = 1
        self._direct_bytes = None if direct_bytes is None else list(direct_bytes)
        self._characters = list(characters)
        bytes_first = 2 + (0 if direct_bytes is None else 32)
        with_token = range(256) if direct_bytes is None else self._direct_bytes or []
        self._id_of_byte = {byte: bytes_first + place for place, byte in enumerate(with_token)}
        first = bytes_first + len(self._id_of_byte)
        self._id_of_character = {letter: first + place for place, letter in enumerate(characters)}
        self.vocab_size = first + len(self._id_of_character)
        self._bytes_of_id = {token_id: bytes([byte]) for byte, token_id in self._id_of_byte.items()}
        self._bytes_of_id |= {token_id: letter.encode() for letter, token_id in self._id_of_character.items()}
        self._spelled: dict[str, list[int]] = {}
        self._file = json.dumps(self._tokenizer_json(), ensure_ascii=False)
        self.fingerprint = "char/" + hashlib.sha256(self._file.encode()).hexdigest()

    @classmethod
    def build(cls, vocab_size: int, texts: Iterable[str] = ()) -> CharTokenizer:
        """Exactly `vocab_size` entries."""
        if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
            fault = "small" if vocab_size < MIN_VOCAB_SIZE else "large"
            raise ConfigError(
                f"a vocabulary of {vocab_size} is too {fault} for characters",
                why=f"allowed is {MIN_VOCAB_SIZE} to {MAX_VOCAB_SIZE:,} entries",
                next=f"--set model.vocab_size={min(max(vocab_size, MIN_VOCAB_SIZE), MAX_VOCAB_SIZE)}",
            )
        counts = _count(texts)
        if vocab_size < ALL_BYTES:
            frequency: Counter[int] = Counter()
            for letter, count in counts.items():
                for byte in letter.encode():
                    frequency[byte] += count
            seen = sorted(frequency, key=lambda byte: (-frequency[byte], byte))
            order = dict.fromkeys([*seen, *_FIRST_BYTES, *range(256)])
            return cls([], list(order)[: vocab_size - 2 - 32])
        seen_letters = sorted(counts, key=lambda letter: (-counts[letter], letter))
        letters = dict.fromkeys(
            islice(_unique(chain(seen_letters, _standard_order())), vocab_size - ALL_BYTES)
        )
        return cls(list(letters))

    def encode(self, text: str) -> list[int]:
        known = self._id_of_character
        ids: list[int] = []
        for letter in text:
            token_id = known.get(letter)
            if token_id is not None:
                ids.append(token_id)
            else:
                ids += self._spelled.get(letter) or self._spell(letter)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def byte_lengths(self) -> list[int] | None:
        """Where half-bytes are in use, a byte is counted at its second half."""
        lengths = [len(self._bytes_of_id.get(token_id, b"")) for token_id in range(self.vocab_size)]
        if self._direct_bytes is not None:
            lengths[2 + 16 : 2 + 32] = [1] * 16
        return lengths

    def special_tokens(self) -> dict[str, int]:
        return {PAD: 0, EOS: 1}

    def save(self, folder: Path) -> None:
        describe(Path(folder), "char", {"tokenizer.json": self._file, **hub_config(PAD, EOS)})

    @classmethod
    def load(cls, folder: Path) -> CharTokenizer:
        file = Path(folder) / "tokenizer.json"
        try:
            vocabulary: dict[str, int] = json.loads(file.read_text("utf-8"))["model"]["vocab"]
            pieces = sorted(vocabulary, key=vocabulary.__getitem__)[2:]
            if chr(HIGH) == pieces[0]:
                byte_of = {letter: byte for byte, letter in character_of_byte().items()}
                return cls([], [byte_of[piece] for piece in pieces[32:]])
            return cls(pieces[256:])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as damage:
            why = f"{type(damage).__name__}: {damage}"
            raise DataError("the saved tokenizer is damaged", where=str(file), why=why) from None

    def _spell(self, letter: str) -> list[int]:
        ids: list[int] = []
        for byte in bytes_of(letter):
            if byte in self._id_of_byte:
                ids.append(self._id_of_byte[byte])
            else:
                ids += [2 + (byte >> 4), 2 + 16 + (byte & 15)]
        if len(self._spelled) < 100_000:
            self._spelled[letter] = ids
        return ids

    def _text(self, ids: Sequence[int]) -> str:
        if self._direct_bytes is None:
            return text_of(b"".join(self._bytes_of_id.get(each, b"") for each in ids))
        data, high = bytearray(), None
        for each in ids:
            if 2 <= each < 2 + 32:
                half = each - 2
                if half >= 16 and high is not None:
                    data.append(high << 4 | (half - 16))
                elif half >= 16 or high is not None:
                    data.append(0xFF)  # half of a byte alone is no text
                high = half if half < 16 else None
            elif each > 1:
                data += b"\xff" * (high is not None) + self._bytes_of_id[each]
                high = None
        return text_of(bytes(data) + b"\xff" * (high is not None))

    def _tokenizer_json(self) -> dict[str, Any]:
        """The same tokenizer in the words of the `tokenizers` library, for who reads the folder with it."""
        names = [PAD, EOS]
        normalizer: dict[str, Any] | None = None
        decoders: list[dict[str, Any]] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
        if self._direct_bytes is None:
            names += [f"<0x{byte:02X}>" for byte in range(256)] + self._characters
        else:
            letter_of = character_of_byte()
            names += [chr(HIGH + half) for half in range(16)] + [chr(LOW + half) for half in range(16)]
            names += [letter_of[byte] for byte in self._direct_bytes]
            halves = {
                letter_of[byte]: chr(HIGH + (byte >> 4)) + chr(LOW + (byte & 15))
                for byte in range(256)
                if byte not in self._id_of_byte
            }
            normalizer = {
                "type": "Sequence",
                "normalizers": [{"type": "ByteLevel"}]
                + [_replace(letter, pair) for letter, pair in halves.items()],
            }
            byte_level = {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            }
            decoders = [
                {"type": "Fuse"},
                *(_replace(pair, letter) for letter, pair in halves.items()),
                byte_level,
            ]
        return library_file(
            {name: token_id for token_id, name in enumerate(names)},
            specials={PAD: 0, EOS: 1},
            normalizer=normalizer,
            decoder={"type": "Sequence", "decoders": decoders},
            byte_fallback=self._direct_bytes is None,
        )


def library_file(
    vocabulary: dict[str, int],
    *,
    specials: dict[str, int],
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
    decoder: dict[str, Any],
    byte_fallback: bool = False,
) -> dict[str, Any]:
    """A tokenizer.json of single characters: a BPE that merges nothing."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": name, **flags} for name, token_id in specials.items()],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _count(texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    left = SAMPLE_CHARACTERS
    for text in texts:
        counts.update(text[:left])
        left -= len(text)
        if left <= 0:
            break
    for letter in [each for each in counts if not _is_character(ord(each))]:
        del counts[letter]
    return counts


def _standard_order() -> Iterator[str]:
    for start, end in (*_FIRST_RANGES, (0, 0x110000)):
        yield from (chr(point) for point in range(start, end) if _is_character(point))


def _unique(letters: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for letter in letters:
        if letter not in seen:
            seen.add(letter)
            yield letter


def _is_character(point: int) -> bool:
    """Neither half of a surrogate pair nor one of the 66 points that will never be characters."""
    return not (0xD800 <= point < 0xE000 or 0xFDD0 <= point < 0xFDF0 or point & 0xFFFE == 0xFFFE)
