"""tiktoken's engine over the merges of a byte-level BPE: the same ids as `tokenizers`, several times faster.

    engine = build_engine(tokenizer.library)
    engine.encode("def f():")                                     # array of ids

What makes the ids equal: (1) The pattern that cuts a text into words is the same; for GPT-2's own, the two
libraries put every code point into the same class (a test walks through all of them). (2) `tokenizers`
applies listed pairs in order of their rank, tiktoken joins whatever makes a known token, by the rank of that
token. So every token gets the rank of the pair that really makes it when its own bytes are encoded, and
tokens that no pair reaches are left out. By induction over the ranks both then make the same joins: as long
as no join crosses its border, a stretch of bytes is encoded as it would be alone.

Whoever encodes with it still compares samples of the text at hand, for libraries change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from torchstone._optional import available, require
from torchstone.data.bpe import byte_of_character

Ids = np.ndarray[Any, Any]
Pair = tuple[str, str]

GPT2_WORDS = r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s+"
"""What the pre-tokenizer ByteLevel cuts by. The look-ahead makes the engine backtrack; what stands in one
group without it runs as an automaton, which makes encoding 1.6 times as fast."""
LONGEST_SPACE = 500_000
"""White space in a row, characters, above which the look-ahead runs out of its stack (at a million)."""
_ENDLESS_SPACE = re.compile(rf"\s{{{LONGEST_SPACE}}}")


class NoEngine(Exception):
    """Why a tokenizer cannot be encoded this way."""


@dataclass(frozen=True)
class MergeEngine:
    """Usable from several threads at once."""

    encoding: Any
    """tiktoken.Encoding whose ids are ranks."""
    id_of_rank: Ids
    bytes_of_id: Ids
    """Bytes that each id stands for; 0 for ids that are never given."""

    def encode(self, text: str) -> Ids | None:
        """Ids of `text`, in the narrowest type that holds them.

        None where this engine cannot take it: lone surrogates are no UTF-8, and space has a limit.
        """
        if len(text) > LONGEST_SPACE and _ENDLESS_SPACE.search(text):
            return None
        try:
            text.encode()
        except UnicodeEncodeError:
            return None
        # A list and then an array: encode_to_numpy goes the slower way that looks for special tokens.
        return self.id_of_rank[np.array(self.encoding.encode_ordinary(text), dtype=np.uint32)]


def build_engine(library: Any) -> MergeEngine:
    """The engine for a `tokenizers.Tokenizer`; NoEngine says what it has that tiktoken cannot do."""
    return _built(library.to_str())


@lru_cache(maxsize=2)  # both splits of a corpus, and a run behind another, have the same tokenizer
def _built(description: str) -> MergeEngine:
    parts = json.loads(description)
    pattern = _pattern(parts)
    model = parts["model"]
    vocabulary: dict[str, int] = model["vocab"]
    byte_of = byte_of_character()
    lacking = [character for character in byte_of if character not in vocabulary]
    if lacking:
        raise NoEngine(f"{len(lacking)} of the 256 bytes are no token")
    merges = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in model["merges"]]
    if not available("tiktoken"):
        raise NoEngine("tiktoken is not installed (pip install 'torchstone[tokenize]')")
    ranks = _ranks(vocabulary, merges, byte_of, whole_words=bool(model.get("ignore_merges")))
    largest = max(vocabulary.values())
    dtype = np.uint16 if largest < 1 << 16 else np.uint32
    id_of_rank = np.zeros(max(ranks.values()) + 1, dtype=dtype)
    bytes_of_id = np.zeros(largest + 1, dtype=np.uint32)
    for token, rank in ranks.items():
        id_of_rank[rank] = vocabulary[token]
        bytes_of_id[vocabulary[token]] = len(token)
    encoding = require("tiktoken", "tokenize").Encoding(
        "torchstone",
        pat_str=pattern,
        mergeable_ranks={
            bytes(byte_of[character] for character in token): rank for token, rank in ranks.items()
        },
        special_tokens={},
    )
    return MergeEngine(encoding, id_of_rank, bytes_of_id)


def _pattern(parts: Mapping[str, Any]) -> str:
    """How words are cut, if that is all that happens to a text before its merges."""
    model = parts["model"]
    if model["type"] != "BPE":
        raise NoEngine(f"its model is {model['type']}, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise NoEngine(f"its BPE uses {name}")
    if parts["normalizer"] is not None:
        raise NoEngine("it changes the text before (a normalizer)")
    if any(not token["special"] for token in parts["added_tokens"]):
        raise NoEngine("it has added tokens that are cut out of the text")
    before = parts["pre_tokenizer"] or {}
    steps = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        raise NoEngine("its words are no plain bytes")
    if len(steps) == 1 and last["use_regex"]:
        return GPT2_WORDS
    if len(steps) == 2 and not last["use_regex"]:
        cut = steps[0]
        if cut["type"] == "Split" and cut["behavior"] == "Isolated" and not cut["invert"]:
            pattern = cut["pattern"].get("Regex")
            if pattern is not None:
                return str(pattern)
    raise NoEngine("its words are cut in a way that tiktoken does not know")


def _ranks(
    vocabulary: Mapping[str, int],
    merges: Sequence[Any],
    byte_of: Mapping[str, int],
    *,
    whole_words: bool,
) -> dict[str, int]:
    """Token -> 0 to 255 for bytes, above that the place of the pair that makes it."""
    place = {pair: number for number, pair in enumerate(merges)}
    ranks = {character: number for number, character in enumerate(byte_of)}
    for token in vocabulary:
        if len(token) == 1 or not all(character in byte_of for character in token):
            continue
        symbols, number = _merged(token, place)
        if len(symbols) == 1:
            ranks[token] = len(byte_of) + number
        elif whole_words:  # such a token is only ever a whole word, and tiktoken would join parts to it
            raise NoEngine(f"its token {token!r} is not made by its own merges")
    return ranks


def _merged(token: str, place: Mapping[Pair, int]) -> tuple[list[str], int]:
    """What the merges make of `token` alone, and the place of the last pair that was joined."""
    symbols, last, none = list(token), -1, len(place)
    while len(symbols) > 1:
        number, at = none, -1
        for i in range(len(symbols) - 1):  # the lowest, and of equal ones the leftmost
            found = place.get((symbols[i], symbols[i + 1]), none)
            if found < number:
                number, at = found, i
        if at < 0:
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        last = number
    return symbols, last
