"""Streamed text: the pieces are the whole, no character is broken, no part of a stop string is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoo.spm import metaspace_tokenizer

from torchstone._errors import UsageError
from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.text_stream import TextStream

BYTES = ByteTokenizer()
BPE = train_bpe(["über Mäuse und 日本語 im Haus, 😀😀 und mehr über Mäuse"] * 3, 300)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def pieces(tokenizer: object, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, stops)  # type: ignore[arg-type]
    given_out = []
    for each in ids:
        given_out.append(stream.add(each))
        if stream.stopped is not None:
            break
    return [*given_out, stream.end()], stream


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
@given(text=TEXT)
def test_pieces_join_to_the_text_and_none_breaks_a_character(tokenizer: object, text: str) -> None:
    out, stream = pieces(tokenizer, tokenizer.encode(text))  # type: ignore[attr-defined]
    assert "".join(out) == text == stream.text
    if "\ufffd" not in text:
        assert not any("\ufffd" in each for each in out)


@given(st.lists(st.integers(0, 255), max_size=80))
def test_bytes_that_are_no_text_come_as_decoding_the_whole_gives_them(data: list[int]) -> None:
    if any(each in (0xED,) for each in data):  # surrogates have no UTF-8; the byte tokenizer keeps them
        data = [each for each in data if each != 0xED]
    out, _ = pieces(BYTES, data)
    assert "".join(out) == BYTES.decode(data)


def test_a_character_appears_with_its_last_byte() -> None:
    out, _ = pieces(BYTES, list("a😀b".encode()))
    assert out == ["a", "", "", "", "😀", "b", ""]


def test_spaces_survive_where_a_decoder_strips_the_first_one() -> None:
    tokenizer = metaspace_tokenizer(["a cat sat on a mat "] * 4)
    text = "a cat sat on a mat " * 12 + "cat"
    out, _ = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(out) == tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    out, stream = pieces(BYTES, BYTES.encode(text), tuple(stops))
    # The stop that is complete first ends the text, as a reader who waits for each letter would see it.
    ends = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
    if not ends:
        assert "".join(out) == text and stream.stopped is None
        return
    first = min(end for end, _ in ends)
    expected = min(text[:first].find(stop) for end, stop in ends if end == first)
    assert "".join(out) == text[:expected] and stream.stopped in stops


def test_a_stop_over_several_tokens_is_never_shown_in_part() -> None:
    out, stream = pieces(BYTES, BYTES.encode("one END two"), ("END",))
    assert "".join(out) == "one " and stream.stopped == "END"
    out, _ = pieces(BYTES, BYTES.encode("one EN"), ("END",))
    assert out[:-1] == ["o", "n", "e", " ", "", ""] and out[-1] == "EN"
    with pytest.raises(UsageError, match="empty stop"):
        TextStream(BYTES, ("",))
