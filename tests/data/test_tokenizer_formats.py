"""Tokenizer files of users: every format is opened, GPT-2's ids are right, other files are one error."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from zoo.gpt2_files import gpt2_folder

from torchstone._errors import DataError
from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import character_of_byte
from torchstone.data.tokenizer import load_tokenizer

KNOWN_IDS = {
    "Hello world": [15496, 995],
    "Hello, world!": [15496, 11, 995, 0],
    "The quick brown fox jumps over the lazy dog": [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290],
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "[unused1]"]
TEXTS = ["a tokenizer of pieces", "pieces of a text, a text of pieces", "one more line of text"] * 20


@pytest.fixture(scope="module")
def gpt2() -> Path:
    return gpt2_folder()


def test_gpt2_has_its_known_ids(gpt2: Path) -> None:
    for place in (gpt2, gpt2 / "encoder.json", gpt2 / "vocab.bpe"):
        tokenizer = load_tokenizer(place)
        assert tokenizer.vocab_size == 50257
        assert tokenizer.eos_token_id == 50256
        assert {text: tokenizer.encode(text) for text in KNOWN_IDS} == KNOWN_IDS


def test_gpt2_decodes_as_its_library_does(gpt2: Path) -> None:
    tokenizer = load_tokenizer(gpt2)
    text = Path(__file__).read_text() + "中文 👩‍👩‍👧 \x00"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text == tokenizer.library.decode(ids)
    half = tokenizer.encode("é中")[:2]
    assert tokenizer.decode(half) == tokenizer.library.decode(half)


def test_a_tiktoken_file_of_gpt2_gives_the_same_ids(gpt2: Path, tmp_path: Path) -> None:
    byte_of = {letter: byte for byte, letter in character_of_byte().items()}
    vocabulary = json.loads((gpt2 / "encoder.json").read_text())
    lines = [
        base64.b64encode(bytes(byte_of[letter] for letter in token)) + b" %d" % token_id
        for token, token_id in vocabulary.items()
        if token != "<|endoftext|>"
    ]
    file = tmp_path / "gpt2.tiktoken"
    file.write_bytes(b"\n".join(lines) + b"\n")
    tokenizer, known = load_tokenizer(file), load_tokenizer(gpt2)
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (50257, 50256)
    texts = [*KNOWN_IDS, Path(__file__).read_text(), "don't I'll  2024\n\n\tx=1 中文 é \ud800"]
    assert tokenizer.encode_batch(texts) == known.encode_batch(texts)


def test_vocab_and_merges_of_our_own_are_the_tokenizer_they_came_from(tmp_path: Path) -> None:
    trained = train_bpe(TEXTS, 300)
    model = json.loads(trained.library.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    own = load_tokenizer(tmp_path)
    assert own.encode_batch(TEXTS) == trained.encode_batch(TEXTS)
    assert (own.pad_token_id, own.eos_token_id) == (0, 1)


def test_a_wordpiece_vocabulary_is_read_with_its_case(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    assert load_tokenizer(tmp_path).encode("Hello worlds") == [5, 6, 7]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased = load_tokenizer(tmp_path / "vocab.txt")
    assert cased.encode("Hello world") == [1, 6]
    assert (cased.pad_token_id, cased.eos_token_id) == (0, 3)


@pytest.fixture(scope="module")
def piece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece", reason="pip install 'torchstone[tokenize]'")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        pad_id=3,
        minloglevel=2,
    )
    file = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return file


def test_a_sentencepiece_model_is_its_own_library_s(piece_file: Path, tmp_path: Path) -> None:
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_file=str(piece_file))
    tokenizer = load_tokenizer(piece_file.parent)
    assert (tokenizer.vocab_size, tokenizer.pad_token_id, tokenizer.eos_token_id) == (300, 3, 2)
    text = "pieces of 中文 text 👍🏽"
    assert tokenizer.encode(text) == library.encode(text)
    assert tokenizer.decode([*tokenizer.encode(text), 2, 3]) == text
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert 2 not in tokenizer.encode("</s>")
    assert tokenizer.encode_with_specials("</s>") == [2]


def test_pad_and_end_are_those_that_the_folder_names(tmp_path: Path) -> None:
    train_bpe(TEXTS, 300).save(tmp_path)
    for name in ("torchstone_tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    config = {"pad_token": "<eos>", "eos_token": {"content": "<eos>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.json", b'{"a": 0}', "merges.txt is missing"),
        ("tokenizer.model", b"no model at all", "no SentencePiece model"),
        ("tokenizer.model", b"", "no SentencePiece model"),
        ("vocab.txt", b"one\ntwo\n", "no WordPiece vocabulary"),
        ("vocab.txt", b"\xff\xfe\x00", "cannot be read"),
        ("x.tiktoken", b"IQ== 0\nnothing\n", r"no tiktoken file(.|\n)*x\.tiktoken:2"),
        ("x.tiktoken", b"IQ== 0\nIg== 1\n", "2 ranks is not known"),
        ("words.json", b'{"a": 0, "b": 1}', "without its merges"),
        ("model.safetensors", b"\x08\x00\x00", r"no tokenizer\.json"),
        ("notes.md", b"# text", r"no tokenizer\.json"),
    ],
)
def test_a_file_of_another_kind_is_explained(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    if name.endswith(".model"):
        pytest.importorskip("sentencepiece", reason="pip install 'torchstone[tokenize]'")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as refused:
        load_tokenizer(tmp_path / name)
    assert refused.value.exit_code == 4


def test_a_broken_merge_is_told_with_its_line(tmp_path: Path) -> None:
    letters = {letter: place for place, letter in enumerate(character_of_byte().values())}
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(DataError, match=r"merges\.txt:2"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(letters | {"ab": 999}))
    with pytest.raises(DataError, match="are not 0, 1, 2"):
        load_tokenizer(tmp_path)


def test_an_empty_folder_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
