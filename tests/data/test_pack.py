"""Packed tokens are the texts, exactly; the cache is whole, true or made again."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from torchstone._errors import DataError
from torchstone.data.byte_tokenizer import EOS, ByteTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.pack import TokenBlocks, pack
from torchstone.data.source import Corpus, read_source

TEXTS = {"a.txt": "alpha\n", "b.txt": "beta – é\n", "c.txt": "gamma\n" * 3}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return read_source(str(folder), DataConfig(validation_split=0.3))


def test_the_stream_is_the_documents_with_marks_between(corpus: Corpus, tmp_path: Path) -> None:
    packed = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path)
    assert packed.val is not None
    for split, blocks in (("train", packed.train), ("val", packed.val)):
        expected: list[int] = []
        for document in corpus.documents(split):
            expected += [*document.text.encode(), EOS]
        assert blocks.tokens.tolist() == expected
        assert blocks.num_text_bytes == corpus.num_bytes(split)
        assert blocks.tokens.dtype == np.uint16


def test_blocks_tile_the_stream(corpus: Corpus, tmp_path: Path) -> None:
    blocks = pack(corpus, ByteTokenizer(), 5, cache_dir=tmp_path).train
    batch = blocks.batch(range(len(blocks)))
    assert batch["input_ids"].shape == (len(blocks.tokens) // 5, 5)
    assert batch["input_ids"].flatten().tolist() == blocks.tokens[: 5 * len(blocks)].tolist()
    assert batch["labels"].equal(batch["input_ids"])
    assert batch["labels"].data_ptr() != batch["input_ids"].data_ptr()


def test_a_short_text_is_one_short_block() -> None:
    blocks = TokenBlocks(np.array([1, 2, 3], dtype=np.uint16), 128)
    assert len(blocks) == 1
    assert blocks.batch([0])["input_ids"].tolist() == [[1, 2, 3]]
    with pytest.raises(DataError, match="1 tokens"):
        TokenBlocks(np.array([1], dtype=np.uint16), 128)


def test_a_large_vocabulary_takes_wider_numbers(corpus: Corpus, tmp_path: Path) -> None:
    class Wide(ByteTokenizer):
        vocab_size = 70_000
        fingerprint = "wide"

        def encode(self, text: str) -> list[int]:
            return [each + 69_000 for each in text.encode()]

    blocks = pack(corpus, Wide(), 4, cache_dir=tmp_path).train
    assert blocks.tokens.dtype == np.uint32
    assert int(blocks.tokens.max()) > 69_000


def test_a_tokenizer_that_lies_about_its_size_is_caught(corpus: Corpus, tmp_path: Path) -> None:
    class Liar(ByteTokenizer):
        vocab_size = 100
        fingerprint = "liar"

    with pytest.raises(DataError, match="says it has 100 entries"):
        pack(corpus, Liar(), 4, cache_dir=tmp_path)
    assert not list((tmp_path / "tokens").iterdir())  # nothing half written


def test_the_second_time_nothing_is_encoded(corpus: Corpus, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path, on_progress=lambda *at: calls.append(at))
    assert calls[-1] == (corpus.num_bytes("val"), corpus.num_bytes("val"))
    calls.clear()
    second = pack(corpus, ByteTokenizer(), 8, cache_dir=tmp_path, on_progress=lambda *at: calls.append(at))
    assert not calls
    assert second.train.tokens.tolist() == first.train.tokens.tolist()
    assert isinstance(second.train.tokens, np.memmap)


@pytest.mark.parametrize("victim", [".npy", ".json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_cache_is_made_again(
    corpus: Corpus, tmp_path: Path, victim: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path).train.tokens.tolist()
    for path in (tmp_path / "tokens").glob(f"*{victim}"):
        data = path.read_bytes()
        if harm == "flip":
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        elif harm == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            path.unlink()
    with caplog.at_level(logging.WARNING):
        again = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path).train.tokens.tolist()
    assert again == good
    told = "damaged" in caplog.text
    assert told or (victim, harm) in ((".json", "remove"), (".json", "flip"))


def test_other_text_is_another_cache(corpus: Corpus, tmp_path: Path) -> None:
    before = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path).train
    path = corpus.train[0].path
    path.write_text(path.read_text() + "more\n")
    changed = read_source(str(path.parent), DataConfig(validation_split=0.0))
    after = pack(changed, ByteTokenizer(), 4, cache_dir=tmp_path).train
    assert after.fingerprint != before.fingerprint
    assert len(after.tokens) > len(before.tokens)


def test_the_record_tells_what_the_stream_holds(corpus: Corpus, tmp_path: Path) -> None:
    blocks = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path).train
    records = [json.loads(path.read_text()) for path in (tmp_path / "tokens").glob("*.json")]
    assert len(blocks.tokens) in [record["num_tokens"] for record in records]
    assert {record["schema"] for record in records} == {"torchstone.tokens/2"}


def test_a_stream_in_a_file_goes_to_a_worker_as_its_place(corpus: Corpus, tmp_path: Path) -> None:
    packed = pack(corpus, ByteTokenizer(), 4, cache_dir=tmp_path).train
    sliced = TokenBlocks(packed.tokens[2:], 4)
    for blocks in (packed, sliced):
        there = pickle.loads(pickle.dumps(blocks))
        assert there.tokens.dtype == blocks.tokens.dtype and len(there) == len(blocks)
        assert there.batch([0, 1])["input_ids"].equal(blocks.batch([0, 1])["input_ids"])
    large = np.memmap(tmp_path / "large.bin", np.uint16, mode="w+", offset=64, shape=(100_000,))
    large[-1] = 7
    data = pickle.dumps(TokenBlocks(large, 10))
    assert len(data) < 1_000
    assert pickle.loads(data).tokens[-1] == 7
