"""A user's own tokenizer in the format of the `tokenizers` library, taken as it is.

Nothing is added or repaired. Special tokens that stand literally in a text stay text, as everywhere here.
Pad and end-of-document are those that the tokenizer_config.json beside the file names, else are recognised
among the file's own added tokens, and are None where it has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.bpe import SURROGATES, byte_of_character
from torchstone.data.byte_tokenizer import bytes_of, text_of
from torchstone.data.saved_tokenizer import describe, hub_config
from torchstone.data.tokenizer_calls import TokenizerCalls

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")
EOS_NAMES = ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "[SEP]")
HUB_CONFIG = "tokenizer_config.json"
SPACE = "\u2581"
"""SentencePiece's letter for a space."""
LOST = -1
"""Length of a token whose text nobody can tell: an unknown word."""
ONE_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""Name of a byte-fallback token."""


class FileTokenizer(TokenizerCalls):
    """The library's own encoding and decoding, without the marks that a template would add."""

    def __init__(self, library: Library, *, pad: str | None = None, eos: str | None = None) -> None:
        """`pad` and `eos` name tokens of the file; None: whatever is recognised."""
        library.no_padding()
        library.no_truncation()  # a limit baked into the file would silently drop text
        library.encode_special_tokens = True
        self._library = library
        vocabulary = library.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        added = library.get_added_tokens_decoder()
        names = {token.content for token in added.values()}
        self._specials = {token.content: token_id for token_id, token in added.items() if token.special}
        self.pad_token_id: int | None = _first(PAD_NAMES if pad is None else (pad,), vocabulary, names)
        self.eos_token_id: int | None = _first(EOS_NAMES if eos is None else (eos,), vocabulary, names)
        self.fingerprint = "file/" + hashlib.sha256(library.to_str().encode()).hexdigest()
        self._bytes_of_id = self._spelled_bytes()
        spelled = self._bytes_of_id or []
        self._id_of_byte = {data[0]: place for place, data in enumerate(spelled) if len(data) == 1}
        if len(self._id_of_byte) < 256:
            self._bytes_of_id = None

    @property
    def library(self) -> Library:
        """For engines that do its work faster."""
        return self._library

    def encode(self, text: str) -> list[int]:
        if self._bytes_of_id is None or not SURROGATES.search(text):
            return list(self._library.encode(unicode_of(text), add_special_tokens=False).ids)
        ids: list[int] = []
        for piece in SURROGATES.split(text):
            if SURROGATES.match(piece):  # no Unicode, but bytes can spell it
                ids += [self._id_of_byte[each] for each in bytes_of(piece)]
            elif piece:
                ids += self._library.encode(piece, add_special_tokens=False).ids
        return ids

    def encode_marked(self, text: str) -> list[int]:
        """As the file's own template has it, with the marks of beginning and end that it adds."""
        return list(self._library.encode(unicode_of(text), add_special_tokens=True).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        plain = list(texts)
        odd = [place for place, text in enumerate(texts) if SURROGATES.search(text)]
        for place in odd:
            plain[place] = ""
        rows = [each.ids for each in self._library.encode_batch_fast(plain, add_special_tokens=False)]
        for place in odd:
            rows[place] = self.encode(texts[place])
        return rows

    def byte_lengths(self) -> list[int] | None:
        """Known where the file spells bytes (GPT-2's way) and changes no letter before."""
        spelled = self._spelled_bytes()
        return None if spelled is None else [len(each) for each in spelled]

    def _spelled_bytes(self) -> list[bytes] | None:
        parts = json.loads(self._library.to_str())
        if (parts["decoder"] or {}).get("type") != "ByteLevel" or parts["normalizer"] is not None:
            return None
        byte_of = byte_of_character()
        added = self._library.get_added_tokens_decoder()
        spelled = [b""] * self.vocab_size
        for token, token_id in self._library.get_vocab(with_added_tokens=True).items():
            if token_id not in added:
                spelled[token_id] = bytes(byte_of[letter] for letter in token if letter in byte_of)
            elif not added[token_id].special:
                spelled[token_id] = token.encode()
        return spelled

    def spelled_lengths(self) -> list[int] | None:
        """Bytes that each token spells, if the text was not changed before: spaces may be letters, and a
        byte that no token has may have a token of its own."""
        if self._bytes_of_id is not None:
            return self.byte_lengths()
        parts = json.loads(self._library.to_str())
        model, added = parts["model"], self._library.get_added_tokens_decoder()
        space = SPACE if SPACE in json.dumps(parts["decoder"], ensure_ascii=False) else " "
        lengths = [0] * self.vocab_size
        for token, token_id in self._library.get_vocab(with_added_tokens=True).items():
            if token == unknown_token(model):
                lengths[token_id] = LOST
            elif token_id in added:
                lengths[token_id] = 0 if added[token_id].special else len(token.encode())
            elif model.get("byte_fallback") and ONE_BYTE.fullmatch(token):
                lengths[token_id] = 1
            else:
                lengths[token_id] = len(token.replace(space, " ").encode())
        return lengths

    @property
    def unicode_only(self) -> bool:
        """Whether a lone surrogate becomes U+FFFD: there are no bytes to spell it with."""
        return self._bytes_of_id is None

    @property
    def normalises(self) -> bool:
        """Whether text is changed before it is cut, as the file wants it."""
        return self._library.normalizer is not None

    def special_tokens(self) -> dict[str, int]:
        return dict(self._specials)

    def save(self, folder: Path) -> None:
        names = hub_config(self.pad_token, self.eos_token)
        describe(Path(folder), "file", {"tokenizer.json": self._library.to_str(), **names})

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
        config = read_hub_config(file.parent) if file.name == "tokenizer.json" else {}
        return cls(library, pad=token_name(config.get("pad_token")), eos=token_name(config.get("eos_token")))

    def _text(self, ids: Sequence[int]) -> str:
        if self._bytes_of_id is not None:
            return text_of(b"".join(self._bytes_of_id[each] for each in ids))
        return str(self._library.decode(list(ids), skip_special_tokens=True))


def read_hub_config(folder: Path) -> dict[str, Any]:
    """The tokenizer_config.json of a folder, as transformers writes it; empty where there is none."""
    file = folder / HUB_CONFIG
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as damage:
        raise DataError(f"this is no {HUB_CONFIG}", where=str(file), why=str(damage)) from None


def token_name(told: Any) -> str | None:
    """A token is told by its name, or by a record that holds it as `content`."""
    name = told.get("content") if isinstance(told, dict) else told
    return name if isinstance(name, str) else None


def unknown_token(model: dict[str, Any]) -> str | None:
    """The token for words outside the vocabulary, told by name or, in a unigram model, by place."""
    place = model.get("unk_id")
    return model.get("unk_token") if place is None else str(model["vocab"][place][0])


def _first(names: Sequence[str], vocabulary: dict[str, int], added: set[str]) -> int | None:
    return next((vocabulary[name] for name in names if name in added), None)


def unicode_of(text: str) -> str:
    """The library takes Unicode alone: a lone surrogate becomes U+FFFD, as any Unicode decoder has it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
