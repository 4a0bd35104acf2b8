"""Laws of every tokenizer: it round-trips all text, stays in its vocabulary, is the same everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import ConfigError, DataError
from torchstone.data.bpe import BytePairTokenizer, train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.char_tokenizer import CharTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.source import Corpus, read_source
from torchstone.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

# All planes, controls, lone surrogates.
ANY_TEXT = st.text(alphabet=st.characters(), max_size=60)
HARD = [
    "",
    "\x00\x01\x7f\r\n\t\x1c\x85\u2028",
    "<eos><pad><|endoftext|>",
    "e\u0301 é",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\ud800 \udfff\udc00",
    "ÿþ\ufeff\ufffd\uffff\U0010ffff",
    " \n \n\n  def f():\n\treturn 1\n",
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_source("builtin:stdlib", DataConfig(max_bytes=400_000))


@pytest.fixture(scope="module")
def trained(corpus: Corpus) -> BytePairTokenizer:
    return train_bpe((document.text for document in corpus.documents("train")), 1500)


KINDS = ["bytes", "bpe", "char", "few characters", "file"]


@pytest.fixture(scope="module", params=KINDS + ["loaded " + kind for kind in KINDS[:-1]])
def tokenizer(
    request: pytest.FixtureRequest, trained: BytePairTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    plain: Tokenizer = trained
    if "bytes" in request.param:
        plain = ByteTokenizer()
    elif "char" in request.param:
        plain = CharTokenizer.build(100 if "few" in request.param else 1000, [HARD[3], HARD[6]])
    if request.param in KINDS[:-1]:
        return plain
    folder = tmp_path_factory.mktemp("tokenizer")
    plain.save(folder)
    return load_tokenizer(folder / "tokenizer.json" if request.param == "file" else folder)


@settings(deadline=None, max_examples=400)
@given(text=ANY_TEXT)
def test_round_trips_any_text(tokenizer: Tokenizer, text: str) -> None:
    if type(tokenizer).__name__ == "FileTokenizer":  # a user's file promises UTF-8, not lone surrogates
        text = text.encode(errors="ignore").decode()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= each < tokenizer.vocab_size for each in ids)
    assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(ids)


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_round_trips_hard_text(tokenizer: Tokenizer, text: str) -> None:
    if type(tokenizer).__name__ == "FileTokenizer":
        text = text.encode(errors="ignore").decode()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, "a"]) == [tokenizer.encode(text), tokenizer.encode("a")]


def test_real_text_in_batches_is_the_same(tokenizer: Tokenizer, corpus: Corpus) -> None:
    texts = [document.text for document in corpus.documents("val")]
    batch = tokenizer.encode_batch(texts)
    assert batch == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in batch] == texts


def test_specials_are_ids_of_their_own_and_no_text(tokenizer: Tokenizer) -> None:
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert pad is not None
    assert eos is not None
    assert pad != eos
    assert max(pad, eos) < tokenizer.vocab_size
    assert tokenizer.decode([pad, *tokenizer.encode("a"), eos]) == "a"


def test_what_is_no_text_still_decodes(tokenizer: Tokenizer) -> None:
    first_byte = tokenizer.encode("é")[:1]
    assert tokenizer.decode(tokenizer.encode("a") + first_byte) in ("a\ufffd", "aé")


def test_an_id_outside_the_vocabulary_is_an_error(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(DataError, match=f"token id {wrong} "):
            tokenizer.decode([wrong])


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == tokenizer.vocab_size
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert again.encode("def __init__(self): é") == tokenizer.encode("def __init__(self): é")


def test_every_token_of_a_trained_one_decodes_to_its_bytes(trained: BytePairTokenizer) -> None:
    for token_id in range(2, trained.vocab_size):
        text = trained.decode([token_id])
        assert text
        if "\ufffd" not in text:
            assert trained.decode(trained.encode(text)) == text


def test_training_gives_the_same_tokens_in_another_process(
    trained: BytePairTokenizer, tmp_path: Path
) -> None:
    code = (
        "from torchstone.data.source import read_source; from torchstone.data.config import DataConfig;"
        "from torchstone.data.bpe import train_bpe;"
        "corpus = read_source('builtin:stdlib', DataConfig(max_bytes=400_000));"
        "print(train_bpe((d.text for d in corpus.documents('train')), 1500).fingerprint)"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "12345"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == trained.fingerprint


def test_a_sample_is_enough_to_train_on() -> None:
    many = ("the same words again " for _ in range(10**9))  # would not end without the cap
    assert train_bpe(many, 300, sample_bytes=10_000).vocab_size <= 300


def test_the_size_is_reached_or_honestly_smaller(corpus: Corpus, tmp_path: Path) -> None:
    assert build_tokenizer(DataConfig(), corpus, 700, tmp_path).vocab_size == 700
    sized = build_tokenizer(DataConfig(tokenizer_vocab_size=300), corpus, 700, tmp_path)
    assert sized.vocab_size == 300
    (tmp_path / "one.txt").write_text("tiny text, tiny text")
    tiny = read_source(str(tmp_path / "one.txt"), DataConfig())
    assert 258 <= build_tokenizer(DataConfig(), tiny, 5000, tmp_path).vocab_size < 300


def test_only_the_training_split_is_learned_from(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("common words\n" * 90 + "zyzzyva quux\n" * 10)
    corpus = read_source(str(file), DataConfig(validation_split=0.1))
    assert "zyzzyva" not in "".join(document.text for document in corpus.documents("train"))
    tokenizer = build_tokenizer(DataConfig(), corpus, 400, tmp_path)
    assert len(tokenizer.encode("zyzzyva")) >= 6
    assert len(tokenizer.encode("common")) == 1


@pytest.mark.parametrize(
    ("settings_", "vocab_size", "kind", "said"),
    [
        ({"tokenizer_vocab_size": 900}, 800, ConfigError, "more than the model's vocabulary of 800"),
        ({}, 99, ConfigError, "a vocabulary of 99 is too small"),
        ({"tokenizer": "bytes"}, 256, DataError, "larger than the model's vocabulary"),
        ({"tokenizer": "bytes", "tokenizer_vocab_size": 300}, 400, ConfigError, "no effect"),
        ({"tokenizer": "absent.json"}, 400, DataError, "no tokenizer here"),
    ],
)
def test_impossible_wishes_are_refused(
    corpus: Corpus, tmp_path: Path, settings_: dict[str, object], vocab_size: int, kind: type, said: str
) -> None:
    with pytest.raises(kind, match=said):
        build_tokenizer(DataConfig(**settings_), corpus, vocab_size, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_cache_is_used_and_mended(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = build_tokenizer(DataConfig(), corpus, 400, tmp_path)
    (saved,) = tmp_path.glob("tokenizers/*/tokenizer.json")
    written = saved.stat().st_mtime_ns
    build_tokenizer(DataConfig(), corpus, 400, tmp_path)
    assert saved.stat().st_mtime_ns == written
    assert not caplog.text
    good = saved.read_text()
    # Still a readable tokenizer, but not the one that was trained.
    other = json.loads(good)
    other["model"]["merges"] = other["model"]["merges"][:10]
    for harm in (json.dumps(other), good[:100], ""):
        saved.write_text(harm)
        caplog.clear()
        assert build_tokenizer(DataConfig(), corpus, 400, tmp_path).fingerprint == first.fingerprint
        assert "damaged" in caplog.text
        assert saved.read_text() == good


def test_the_cache_place_can_be_named(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "named"))
    build_tokenizer(DataConfig(), corpus, 300)
    assert list((tmp_path / "named").glob("tokenizers/*/tokenizer.json"))


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"model": {"type": "BPE"}}', "[1, 2]"])
def test_a_file_of_another_kind_is_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(DataError, match=r"no tokenizer\.json|has no entries"):
            load_tokenizer(place)


def test_a_limit_inside_a_users_file_does_not_drop_text(trained: BytePairTokenizer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library

    trained.save(tmp_path)
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(max_length=3)
    library.enable_padding(length=10)
    library.save(str(tmp_path / "limited.json"))
    text = "a text of more than three tokens"
    assert load_tokenizer(tmp_path / "limited.json").encode(text) == trained.encode(text)
