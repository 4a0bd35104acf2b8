"""Bytes of tokens are the bytes of the text, by hand and by law; else they are called unknown."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.spm import metaspace_tokenizer

from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.char_tokenizer import MIN_VOCAB_SIZE, CharTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.pack import TokenBlocks, pack
from torchstone.data.source import read_source
from torchstone.data.token_bytes import TokenBytes, Unknown, token_bytes
from torchstone.data.tokenizer_file import FileTokenizer
from torchstone.train.losses import LOSSES

TEXT = "Grüße, 99 Käse aus Köln €\n"  # 26 characters, 31 bytes


def stream(tokenizer: Any, texts: list[str], length: int = 5) -> TokenBlocks:
    """As `pack` makes it, without a disk."""
    eos = tokenizer.eos_token_id
    ids = [each for text in texts for each in [*tokenizer.encode(text), *([] if eos is None else [eos])]]
    num_bytes = sum(len(text.encode()) for text in texts)
    return TokenBlocks(np.array(ids, dtype=np.int64), length, num_text_bytes=num_bytes)


def counted(told: TokenBytes | Unknown, labels: list[list[int]], kind: str = "causal-lm") -> int | None:
    rule = LOSSES.get(kind)
    assert isinstance(told, TokenBytes) and rule.written is not None
    return told.count(*rule.written(torch.tensor(labels)))


@cache
def byte_fallback() -> Any:
    """A SentencePiece model that puts a space before each text and has a token for each byte."""
    library = pytest.importorskip("sentencepiece", reason="needs the extra [tokenize]")
    from torchstone.data.sentencepiece_tokenizer import SentencePieceTokenizer

    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT.strip()] * 20), model_writer=model, vocab_size=285, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue())


@cache
def kinds() -> dict[str, Any]:
    bpe = train_bpe([TEXT] * 8, 300)
    gpt2 = FileTokenizer(type(bpe.library).from_str(bpe.library.to_str()))
    return {
        "bytes": ByteTokenizer(),
        "char": CharTokenizer.build(400, [TEXT]),
        "half-bytes": CharTokenizer.build(MIN_VOCAB_SIZE, ["abc"]),
        "bpe": bpe,
        "gpt2 file": gpt2,
        "byte-fallback": byte_fallback(),
    }


NAMES = ("bytes", "char", "half-bytes", "bpe", "gpt2 file", "byte-fallback")


def test_bytes_of_targets_by_hand() -> None:
    tokenizer = ByteTokenizer()
    told = token_bytes(tokenizer)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert counted(told, [[65, 66, eos, 67]]) == 2  # B and C: the first is no target, the mark no text
    assert counted(told, [[65, -100, 66, 67], [pad, 65, eos, -100]]) == 3
    char = CharTokenizer.build(400, ["aé€"])
    told = token_bytes(char)
    ids = char.encode("aé€")  # 1, 2 and 3 bytes
    assert len(ids) == 3 and counted(told, [ids]) == 5 and counted(told, [ids], "seq2seq") == 6
    spelled = char.encode("a\U0001f980")  # a crab that the vocabulary has not: four bytes, four tokens
    assert len(spelled) == 5 and counted(told, [spelled]) == 4
    bpe = train_bpe(["the cat the cat "] * 8, 270)
    ids = bpe.encode("the cat")
    assert len(ids) < 7 and counted(token_bytes(bpe), [ids]) == 7 - len(bpe.decode(ids[:1]))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1))
def test_all_tokens_of_a_stream_have_all_its_bytes(name: str, texts: list[str]) -> None:
    """And so have its blocks, each with the token before it."""
    tokenizer = kinds()[name]
    if name == "byte-fallback" and any("\0" in text or "▁" in text for text in texts):
        return  # its library ends a text at a zero, and takes its own letter for a space
    blocks = stream(tokenizer, texts)
    told = token_bytes(tokenizer, blocks)
    ids = [tokenizer.eos_token_id, *blocks.tokens.tolist()]
    assert counted(told, [ids]) == blocks.num_text_bytes
    parts = [counted(told, [ids[start : start + 4]]) for start in range(0, len(ids), 3)]
    assert sum(each or 0 for each in parts) == blocks.num_text_bytes


def test_a_space_before_each_document_is_no_text() -> None:
    blocks = stream(byte_fallback(), [TEXT, "Köln"])
    told = token_bytes(byte_fallback(), blocks)
    assert isinstance(told, TokenBytes) and told.opening == 1 and told.proven
    last = byte_fallback().encode("Köln")
    assert counted(told, [[byte_fallback().eos_token_id, *last]]) == 5
    assert counted(told, [[*last, byte_fallback().eos_token_id]]) == 5 + 1 - int(told.lengths[last[0]])


@pytest.mark.parametrize("kind", ["no accents", "lost words", "no text", "no tokenizer", "silent"])
def test_what_cannot_be_told_is_unknown_and_says_why(kind: str) -> None:
    import tokenizers

    plain = metaspace_tokenizer([TEXT] * 4)
    assert isinstance(token_bytes(plain, stream(plain, ["Käse aus Köln"])), TokenBytes)
    bare = metaspace_tokenizer(["Grusse, 99 Kase aus Koln\n"] * 4)
    bare.library.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFD(), tokenizers.normalizers.StripAccents()]
    )
    told, why = {
        "no accents": (
            token_bytes(bare, stream(bare, ["Käse aus Köln"])),
            "spell 13 bytes and the text has 15",
        ),
        "lost words": (token_bytes(plain, stream(plain, ["Käse \U0001f980"])), "1 tokens are unknown"),
        "no text": (token_bytes(plain), "no text to hold"),
        "no tokenizer": (token_bytes(None), "nobody said"),
        "silent": (token_bytes(object()), "does not tell"),
    }[kind]
    assert isinstance(told, Unknown)
    assert re.search(why, told.why)


def test_ids_beyond_the_tokenizer_are_not_guessed() -> None:
    assert counted(token_bytes(ByteTokenizer()), [[65, 300]]) is None
    told = token_bytes(ByteTokenizer(), TokenBlocks(np.array([65, 300]), 2, num_text_bytes=2))
    assert isinstance(told, Unknown) and "id 300" in told.why


def test_packed_files_prove_their_lengths(tmp_path: Path) -> None:
    for place in range(6):
        (tmp_path / f"{place}.txt").write_text(TEXT * (place + 1), encoding="utf-8")
    corpus = read_source(str(tmp_path), DataConfig(validation_split=0.4))
    packed = pack(corpus, kinds()["bpe"], 8, cache_dir=tmp_path / "cache")
    told = token_bytes(kinds()["bpe"], packed.val)
    assert isinstance(told, TokenBytes) and told.proven
    assert packed.val is not None and packed.val.num_text_bytes == corpus.num_bytes("val")


def test_a_fast_tokenizer_of_transformers_is_asked_through_its_library() -> None:
    """A stand-in with the attributes that are read; transformers itself takes seconds to import."""
    own = kinds()["bpe"]
    fast = SimpleNamespace(backend_tokenizer=own.library, pad_token="<pad>", eos_token="<eos>")
    told, expected = token_bytes(fast), token_bytes(own)
    assert isinstance(told, TokenBytes) and isinstance(expected, TokenBytes)
    assert told.lengths.equal(expected.lengths) and told.eos_token_id == expected.eos_token_id
