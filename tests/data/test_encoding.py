"""The fast engine gives the tokenizer's own ids, or is not used."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.data import encoding
from torchstone.data.bpe import BytePairTokenizer, train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.encoding import Encoder, OtherIds, make_encoder
from torchstone.data.merge_engine import GPT2_WORDS, NoEngine, build_engine
from torchstone.data.source import Document
from torchstone.data.stdlib import stdlib_files

FEW = "aab 's1\n\t\u00e9\u4e2d\U0001d11e"
"""So few letters that pairs repeat, overlap and compete."""


@pytest.fixture(scope="module")
def narrow() -> BytePairTokenizer:
    draw = random.Random(0)
    return train_bpe(["".join(draw.choices(FEW, k=80)) for _ in range(2000)], 1500)


@pytest.fixture(scope="module")
def broad() -> BytePairTokenizer:
    paths = [path for _, path in stdlib_files()[::20]]
    return train_bpe([path.read_text(encoding="utf-8", errors="ignore") for path in paths], 3000)


@pytest.mark.parametrize("which", ["narrow", "broad"])
def test_every_id_is_the_tokenizers_own(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    engine = build_engine(tokenizer.library)

    @settings(deadline=None, max_examples=500)
    @given(st.text(FEW, max_size=60) | st.text(max_size=60))
    def same(text: str) -> None:
        expected = tokenizer.encode(text)
        found = engine.encode(text)
        if found is None:
            assert any("\ud800" <= each < "\ue000" for each in text)
        else:
            assert found.tolist() == expected
            assert int(engine.bytes_of_id[expected].sum()) == len(text.encode())

    same()


def test_on_real_text(broad: BytePairTokenizer) -> None:
    engine = build_engine(broad.library)
    for _, path in stdlib_files()[7::40]:
        text = path.read_text(encoding="utf-8", errors="ignore")
        assert engine.encode(text).tolist() == broad.encode(text)


def test_marks_inside_a_text_stay_text(narrow: BytePairTokenizer) -> None:
    for text in ("<eos>", "a<pad>b", "<|endoftext|>"):
        ids = build_engine(narrow.library).encode(text).tolist()
        assert ids == narrow.encode(text)
        assert narrow.eos_token_id not in ids


def test_a_million_equal_letters(narrow: BytePairTokenizer) -> None:
    for letter in ("a", " ", "^"):
        text = letter * 200_000
        assert build_engine(narrow.library).encode(text).tolist() == narrow.encode(text)


def test_white_space_without_end_is_left_to_the_tokenizer(narrow: BytePairTokenizer) -> None:
    """The engine's pattern runs out of stack there, and its panic is no Exception that one would catch."""
    text = "a" + " " * 1_100_000 + "b"
    assert build_engine(narrow.library).encode(text) is None
    encoder = make_encoder(narrow, ["a b"])
    assert encoder.name == "tiktoken"
    (chunk,) = encoder.chunks([Document("endless", text, ends=False)])
    assert chunk.ids.tolist() == narrow.encode(text)


def with_merges(merges: list[tuple[str, str]], **model: Any) -> tokenizers.Tokenizer:
    """A BPE over all bytes with these merges, in this order."""
    vocabulary = {each: i for i, each in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, **model))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return library


PAIRS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ab", "ba", "aa", "bb", "aba"]), st.sampled_from(["a", "b", "ab", "aa"])
    ),
    unique=True,
    max_size=8,
)


@settings(deadline=None, max_examples=300)
@given(PAIRS, st.lists(st.text("ab", max_size=12), max_size=5))
def test_any_order_of_merges(pairs: list[tuple[str, str]], texts: list[str]) -> None:
    """Tokens made by two pairs, made by none, or listed before their parts: no file is too odd."""
    known = {"a", "b"}
    merges = []
    for left, right in pairs:
        if left in known and right in known:
            merges.append((left, right))
            known.add(left + right)
    random.Random(len(merges)).shuffle(merges)
    library = with_merges(merges)
    engine = build_engine(library)
    for text in texts:
        assert engine.encode(text).tolist() == library.encode(text).ids


def test_a_pair_that_never_joins_lends_its_token_no_rank() -> None:
    """`aaa` stands as (a, aa) before (a, b), but is only ever made by (aa, a), which comes behind."""
    library = with_merges([("a", "a"), ("a", "aa"), ("a", "b"), ("aa", "a")])
    assert library.encode("aaab").tokens == ["aa", "ab"]
    assert build_engine(library).encode("aaab").tolist() == library.encode("aaab").ids


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.campaign)])
def test_gpt2s_words_are_cut_alike_at_every_code_point(step: int) -> None:
    """Each code point behind a letter, a digit and a sign: do they make one word?"""
    tiktoken = pytest.importorskip("tiktoken", reason="the engine is an extra")
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    points = [point for point in range(0x80, 0x110000, step) if not 0xD800 <= point < 0xE000]
    words = [kind + chr(point) for point in points for kind in "a1!"]
    ranks = {bytes([byte]): byte for byte in range(256)} | {
        word.encode(): 256 + number for number, word in enumerate(words)
    }
    engine = tiktoken.Encoding("words", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens={})
    differing = [
        word for word in words
        if (len(engine.encode_ordinary(word)) == 1) != (len(cut.pre_tokenize_str(word)) == 1)
    ]  # fmt: skip
    assert not differing


def spoilt(tokenizer: BytePairTokenizer, change: Any) -> tokenizers.Tokenizer:
    parts = json.loads(tokenizer.library.to_str())
    change(parts)
    return tokenizers.Tokenizer.from_str(json.dumps(parts))


def prefix_space(parts: Any) -> None:
    parts["pre_tokenizer"]["add_prefix_space"] = True


def normalizer(parts: Any) -> None:
    parts["normalizer"] = {"type": "NFC"}


def cut_out(parts: Any) -> None:
    parts["added_tokens"][0]["special"] = False


@pytest.mark.parametrize("change", [prefix_space, normalizer, cut_out])
def test_what_the_engine_cannot_do_is_refused(narrow: BytePairTokenizer, change: Any) -> None:
    with pytest.raises(NoEngine):
        build_engine(spoilt(narrow, change))


class Swapped:
    """A tokenizer whose own ids are not those of its merges."""

    def __init__(self, inner: BytePairTokenizer, at: str) -> None:
        self.inner, self.at = inner, at
        self.library = inner.library

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, text: str) -> list[int]:
        ids = self.inner.encode(text)
        return [*ids[:-1], ids[-1] ^ 1] if self.at in text else ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]


def test_one_id_that_differs_and_the_engine_is_left(
    narrow: BytePairTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = make_encoder(Swapped(narrow, "odd"), ["even", "odd"])
    assert encoder.name == "tokenizer"
    assert "not the tokenizer's" in caplog.text
    assert make_encoder(narrow, ["even", "odd"]).name == "tiktoken"
    assert make_encoder(ByteTokenizer(), ["even"]).name == "tokenizer"


def test_a_difference_in_a_later_chunk_is_found(
    narrow: BytePairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 10)
    encoder = make_encoder(Swapped(narrow, "odd"), ["even"])
    assert encoder.name == "tiktoken"
    with pytest.raises(OtherIds):
        list(encoder.chunks(Document("", text) for text in ["even numbers", "odd numbers"]))


def test_chunks_are_the_documents_in_order(
    narrow: BytePairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 50)
    draw = random.Random(1)
    documents = [
        Document(str(i), "".join(draw.choices(FEW + "\ud800", k=draw.randrange(30))), ends=bool(i % 3))
        for i in range(99)
    ]
    expected: list[int] = []
    ends = []
    for document in documents:
        expected += narrow.encode(document.text)
        if document.ends:
            expected.append(narrow.eos_token_id or 0)
            ends.append(len(expected))
    for encoder in (make_encoder(narrow, []), Encoder(narrow, None)):
        chunks = list(encoder.chunks(documents))
        assert len(chunks) > 9
        assert np.concatenate([chunk.ids for chunk in chunks]).tolist() == expected
        starts = np.cumsum([0, *(len(chunk.ids) for chunk in chunks)])
        assert [
            int(end) + start for start, chunk in zip(starts, chunks, strict=False) for end in chunk.ends
        ] == ends
        assert sum(chunk.num_pieces for chunk in chunks) == len(documents)
