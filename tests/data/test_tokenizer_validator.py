"""The validator passes what is sound and fails each kind of fault, with the example that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.char_tokenizer import CharTokenizer
from torchstone.data.tokenizer import Tokenizer, load_tokenizer
from torchstone.data.tokenizer_validator import LAWS, TokenizerCheck, validate_tokenizer

TEXTS = ["a tokenizer of pieces", "pieces of a text, a text of pieces"] * 10


def by_name(tokenizer: Any, **more: Any) -> dict[str, TokenizerCheck]:
    return {each.id: each for each in validate_tokenizer(tokenizer, **more)}


@pytest.mark.parametrize(
    "make",
    [
        ByteTokenizer,
        lambda: CharTokenizer.build(100),
        lambda: CharTokenizer.build(3000),
        lambda: train_bpe(TEXTS, 300),
        lambda: train_bpe(TEXTS, 500, pad_size=True),
    ],
    ids=["bytes", "few characters", "characters", "bpe", "padded bpe"],
)
def test_our_own_pass_every_law(make: Any) -> None:
    results = by_name(make(), num_rows=3000, texts=TEXTS)
    assert {name: each.status for name, each in results.items()} == dict.fromkeys(results, "pass")
    assert tuple(results) == LAWS
    assert all(each.measured is not None for name, each in results.items())


def test_a_users_byte_level_file_passes_too(tmp_path: Path) -> None:
    train_bpe(TEXTS, 300).save(tmp_path)
    results = by_name(load_tokenizer(tmp_path / "tokenizer.json"), processes=False)
    assert {each.status for each in results.values()} == {"pass", "skip"}
    assert results["processes"].why == "it was left out"


class BeyondTheRows(ByteTokenizer):
    def encode(self, text: str) -> list[int]:
        return [each + (text == "\x7f\x85\u2028\u2029\ufeff") * 256 for each in super().encode(text)]


class DropsSurrogates(ByteTokenizer):
    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "ignore"))


class Injected(ByteTokenizer):
    def encode(self, text: str) -> list[int]:
        return self.encode_with_specials(text) if "<eos>" in text else super().encode(text)

    def encode_with_specials(self, text: str) -> list[int]:
        head, _, tail = text.partition("<eos>")
        return [*ByteTokenizer().encode(head), 257, *ByteTokenizer().encode(tail)]


class NoByteFallback(CharTokenizer):
    def _spell(self, letter: str) -> list[int]:
        return []


class MasksRealEnds(ByteTokenizer):
    pad_token_id: int | None = 257

    def pad(self, encoded: dict[str, Any], **options: Any) -> dict[str, Any]:
        batch = super().pad(encoded, **options)
        batch["attention_mask"] = [[int(each != 257) for each in row] for row in batch["input_ids"]]
        return batch


class MasksNothing(ByteTokenizer):
    def pad(self, encoded: dict[str, Any], **options: Any) -> dict[str, Any]:
        batch = super().pad(encoded, **options)
        batch["attention_mask"] = [[1] * len(row) for row in batch["input_ids"]]
        return batch


class OtherInBatches(ByteTokenizer):
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text.strip()) for text in texts]


class SavedAsAnother(ByteTokenizer):
    def save(self, folder: Path) -> None:
        CharTokenizer.build(300).save(folder)


class OfThisProcess(ByteTokenizer):
    """As if ids came from a hash of the process: one saved file, two readings."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[(each + 1) % 256 for each in self.encode(text)] for text in texts]


@pytest.mark.parametrize(
    ("make", "law", "example"),
    [
        (BeyondTheRows, "ids-in-range", "\\x7f"),
        (DropsSurrogates, "round-trip", "\\ud800"),
        (Injected, "special-injection", "<eos>"),
        (lambda: NoByteFallback(["a", "b"]), "round-trip", "\\t x"),
        (MasksRealEnds, "pad-and-eos", None),
        (MasksNothing, "pad-and-eos", None),
        (OtherInBatches, "batch", " "),
        (SavedAsAnother, "saved", None),
        (OfThisProcess, "processes", " "),
    ],
)
def test_each_fault_fails_its_law_with_an_example(make: Any, law: str, example: str | None) -> None:
    found = by_name(make(), num_rows=300)[law]
    assert found.status == "fail"
    if example is not None:
        assert found.details["example"].startswith(example)
    assert found.measured is not None
    assert found.measured > 0 or law == "ids-in-range"


def test_a_vocabulary_larger_than_the_embedding_fails() -> None:
    found = by_name(ByteTokenizer(), num_rows=257)["ids-in-range"]
    assert (found.status, found.measured, found.limit) == ("fail", 257, 256)
    assert "1 of 258 entries have no row" in found.summary


def test_a_normalising_tokenizer_gets_a_warning_with_its_share(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    found = by_name(load_tokenizer(tmp_path), processes=False)["round-trip"]
    assert found.status == "warn"
    assert found.why == "this tokenizer normalises text: it cannot be lossless"
    assert found.measured is not None
    assert found.measured > 0.5


def test_the_end_that_is_also_pad_is_kept(tmp_path: Path) -> None:
    tokenizer: Any = ByteTokenizer()
    tokenizer.pad_token_id = tokenizer.eos_token_id
    found = by_name(tokenizer, processes=False)["pad-and-eos"]
    assert found.status == "pass"
    assert found.details["mask"][:4] == [1, 1, 0, 0]
    without: Any = ByteTokenizer()
    without.pad_token_id = None
    assert by_name(without, processes=False)["pad-and-eos"].status == "warn"


def test_a_tokenizer_that_breaks_down_is_an_error_of_that_law() -> None:
    class Breaks(ByteTokenizer):
        def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
            raise OverflowError("too many")

    found = by_name(Breaks(), processes=False)
    assert (found["batch"].status, found["batch"].why) == ("error", "OverflowError: too many")


def test_results_are_json(tmp_path: Path) -> None:
    for each in validate_tokenizer(DropsSurrogates(), processes=False):
        json.dumps(each.to_dict()).encode("ascii")


def check_type(tokenizer: Tokenizer) -> None: ...


def test_ours_keep_the_protocol() -> None:
    check_type(ByteTokenizer())
    check_type(CharTokenizer.build(100))
