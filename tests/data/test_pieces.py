"""A long text in pieces is the same text, and tokenises as the whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchstone.data import files
from torchstone.data.bpe import BytePairTokenizer, train_bpe
from torchstone.data.config import DataConfig
from torchstone.data.files import read_pieces, scan
from torchstone.data.source import read_source

ALPHABET = "ab.é𝄞 \n\t"
# Any white space, but too short for a token to be cut; and one line that is only cut between words.
RUN = st.text(" \n\t", min_size=1, max_size=4) | st.text("ab.é𝄞", min_size=1, max_size=4)
LINES = st.lists(RUN, min_size=5, max_size=10).map("".join)
ONE_LONG_LINE = st.lists(st.text("ab.é", min_size=1, max_size=9), min_size=9, max_size=20).map(" ".join)
FIXED = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tokenizer() -> BytePairTokenizer:
    """One that has learned runs of white space, so that a cut in the wrong place shows."""
    draw = random.Random(0)
    texts = ["".join(draw.choices(ALPHABET, k=60)) for _ in range(2000)]
    return train_bpe(texts, 2000)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # The law does not depend on the sizes; small ones reach the cuts with small texts.
    monkeypatch.setattr(files, "PIECE_CHARACTERS", 7)
    monkeypatch.setattr(files, "LONGEST_PIECE", 40)
    monkeypatch.setattr(files, "READ_BYTES", 11)


def pieces_of(path: Path, content: str) -> list[str]:
    path.write_bytes(content.encode())
    (file,), _ = scan([("text", path)], strict=True)
    return list(read_pieces(file))


@FIXED
@given(LINES | ONE_LONG_LINE)
def test_pieces_join_to_the_text_and_encode_like_it(
    tmp_path: Path, tokenizer: BytePairTokenizer, content: str
) -> None:
    pieces = pieces_of(tmp_path / "text.txt", content)
    assert "".join(pieces) == content
    assert [each for piece in pieces for each in tokenizer.encode(piece)] == tokenizer.encode(content)


def test_pieces_are_really_cut_in_both_ways(tmp_path: Path) -> None:
    assert len(pieces_of(tmp_path / "lines.txt", "some words\n" * 20)) > 10
    assert len(pieces_of(tmp_path / "words.txt", "some words " * 20)) > 2
    assert [len(each) for each in pieces_of(tmp_path / "run.txt", "x" * 100)] == [40, 40, 20]


def test_the_marks_of_document_ends(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("some words\n" * 5)
    corpus = read_source(str(tmp_path), DataConfig(validation_split=0.0))
    documents = list(corpus.documents("train"))
    assert len(documents) > 4
    assert sum(document.ends for document in documents) == 2
    assert documents[-1].ends
