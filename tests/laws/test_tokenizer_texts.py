"""A hundred thousand strings through every kind of tokenizer, in batches.

One example is a list of fragments that hypothesis draws from all of Unicode; its strings are all their pairs,
so what stands at the seam of two tokens is tried as often as what stands inside. The laws: text comes back,
ids lie in the vocabulary, no special is injected, a batch gives what its texts give alone, and what was saved
and loaded gives the same.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zoo.gpt2_files import gpt2_folder

from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.char_tokenizer import CharTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.source import read_source
from torchstone.data.tokenizer import Tokenizer, load_tokenizer

EXAMPLES, FRAGMENTS = 48, 20
KINDS = ("bytes", "few characters", "characters", "bpe", "file", "sentencepiece")
"""Without GPT-2, whose files may not be to be had."""

SPECIALS = ("<eos>", "<pad>", "</s>", "<|endoftext|>", "[CLS]", "<0x0A>", "<unused_0>")
FRAGMENT = st.one_of(
    st.text(st.characters(codec=None), min_size=2, max_size=12),  # every plane
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),  # lone surrogates
    st.text(st.characters(codec="utf-8", max_codepoint=0x250), min_size=2, max_size=12),
    st.sampled_from(
        [*SPECIALS, "", " ", "\n", "\r", "\u0301", "\u200d", "\ufe0f", "👩", "é", "def f():", "中文"]
    ),
)


def test_there_are_a_hundred_thousand_strings() -> None:
    assert EXAMPLES * FRAGMENTS**2 * len(KINDS) >= 100_000


@dataclass(frozen=True)
class Subject:
    tokenizer: Tokenizer
    again: Tokenizer
    """Saved and loaded."""
    lossless: bool


@pytest.fixture(scope="module", params=[*KINDS, "gpt2"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = _made(request.param, folder)
    tokenizer.save(folder / "saved")
    again = load_tokenizer(folder / "saved")
    return Subject(tokenizer, again, lossless=request.param != "sentencepiece")


def _made(kind: str, folder: Path) -> Tokenizer:
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "gpt2":
        return load_tokenizer(gpt2_folder())
    corpus = read_source("builtin:stdlib", DataConfig(max_bytes=200_000, validation_split=0.0))
    texts = [document.text for document in corpus.documents("train")]
    if "characters" in kind:
        return CharTokenizer.build(100 if "few" in kind else 700, texts)
    if kind == "sentencepiece":
        return _pieces(texts, folder / "a.model")
    trained = train_bpe(texts, 900)
    if kind == "bpe":
        return trained
    trained.save(folder)
    return load_tokenizer(folder / "tokenizer.json")


def _pieces(texts: list[str], file: Path) -> Tokenizer:
    library = pytest.importorskip("sentencepiece", reason="pip install 'torchstone[tokenize]'")
    model = io.BytesIO()
    lines = [line for text in texts for line in text.splitlines()][:3000]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=600, byte_fallback=True,
        character_coverage=0.99, minloglevel=2,
    )  # fmt: skip
    file.write_bytes(model.getvalue())
    return load_tokenizer(file)


@settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(fragments=st.lists(FRAGMENT, min_size=FRAGMENTS, max_size=FRAGMENTS, unique=True))
def test_every_text_keeps_the_laws(subject: Subject, fragments: list[str]) -> None:
    tokenizer = subject.tokenizer
    texts = [first + second for first in fragments for second in fragments]
    rows = tokenizer.encode_batch(texts)
    specials = set(tokenizer.special_tokens().values())
    for text, ids in zip(texts, rows, strict=True):
        assert not ids or (min(ids) >= 0 and max(ids) < tokenizer.vocab_size)
        assert specials.isdisjoint(ids)
        if subject.lossless:
            assert tokenizer.decode(ids) == text
    assert subject.again.encode_batch(texts) == rows
    for place in range(0, len(texts), 7):
        assert tokenizer.encode(texts[place]) == rows[place]
