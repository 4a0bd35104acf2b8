"""Tokenizers as users of transformers know them: calls, padding, specials, and the same ids over there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from torchstone._errors import DataError, UsageError
from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.char_tokenizer import CharTokenizer
from torchstone.data.collate import PadCollator
from torchstone.data.task import TaskSpec
from torchstone.data.tokenizer import load_tokenizer

TEXTS = ["a tokenizer of pieces", "pieces of a text, a text of pieces"] * 10
HARD = [
    "",
    " a  b\n",
    "<eos> and <pad>",
    "é e\u0301 中文 👩‍👩‍👧‍👦",
    "\x00\x1f\x85\u2028\ufeff",
    "\ue000\ue010\U0010ffff",
    "<0x0A>",
]
MAKERS: dict[str, Any] = {
    "bytes": ByteTokenizer,
    "100 characters": lambda: CharTokenizer.build(100),
    "257 characters": lambda: CharTokenizer.build(257, HARD),
    "258 characters": lambda: CharTokenizer.build(258),
    "5000 characters": lambda: CharTokenizer.build(5000, HARD),
    "bpe": lambda: train_bpe(TEXTS, 300),
    "padded bpe": lambda: train_bpe(TEXTS, 500, pad_size=True),
}


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


def test_a_saved_folder_is_the_same_tokenizer_for_transformers(tokenizer: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'torchstone[hf]'")
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == len(tokenizer)
    assert (theirs.pad_token_id, theirs.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    for text in HARD:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    ours, their = tokenizer(HARD, padding=True), theirs(HARD, padding=True)
    assert ours["input_ids"] == their["input_ids"]
    assert ours["attention_mask"] == their["attention_mask"]
    theirs.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").encode_batch(HARD) == tokenizer.encode_batch(HARD)


def test_the_largest_vocabulary_is_of_real_characters() -> None:
    tokenizer = CharTokenizer.build(500_000)
    assert tokenizer.vocab_size == 500_000
    for token_id in range(258, 500_000, 997):
        letter = tokenizer.decode([token_id])
        assert len(letter) == 1
        assert tokenizer.encode(letter) == [token_id]


def test_calls_pad_truncate_and_end(tokenizer: Any) -> None:
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    batch = tokenizer(["ab", "abcd"], padding=True, add_eos=True, return_tensors="pt")
    rows = [tokenizer.encode(text) for text in ("ab", "abcd")]
    assert batch["input_ids"].dtype == torch.int64
    assert batch["input_ids"][1].tolist() == [*rows[1], eos]
    missing = len(rows[1]) - len(rows[0])
    assert batch["input_ids"][0].tolist() == [*rows[0], eos, *[pad] * missing]
    assert batch["attention_mask"][0].tolist() == [1] * (len(rows[0]) + 1) + [0] * missing
    cut = tokenizer("abcd" * 5, truncation=True, max_length=3, add_eos=True)
    assert cut["input_ids"][-1] == eos
    assert len(cut["input_ids"]) == 3
    wide = tokenizer("a", padding="max_length", max_length=9)
    assert len(wide["input_ids"]) == 9
    assert sum(wide["attention_mask"]) == 1
    assert tokenizer.batch_decode([[*rows[0], eos, pad]]) == ["ab"]
    assert tokenizer.decode([*rows[0], eos, pad], skip_special_tokens=False) == "ab<eos><pad>"


def test_specials_in_a_text_are_tokens_only_when_asked(tokenizer: Any) -> None:
    text = "a<eos>b<pad>"
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(tokenizer.encode(text))
    asked = tokenizer.encode_with_specials(text)
    assert asked == [
        *tokenizer.encode("a"),
        tokenizer.eos_token_id,
        *tokenizer.encode("b"),
        tokenizer.pad_token_id,
    ]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<eos>", "<pad>")


def test_where_pad_is_the_end_pads_are_masked_and_real_ends_are_learned() -> None:
    tokenizer: Any = ByteTokenizer()
    tokenizer.pad_token_id = tokenizer.eos_token_id
    batch = tokenizer(["a", "abc"], padding=True, add_eos=True)
    assert batch["input_ids"][0] == [97, 257, 257, 257]
    assert batch["attention_mask"] == [[1, 1, 0, 0], [1, 1, 1, 1]]
    task = TaskSpec(name="lm", kind="causal-lm", pad_token_id=257)
    rows = [{"input_ids": torch.tensor(ids)} for ids in ([97, 257], [97, 98, 99, 257])]
    collated = PadCollator(task)(rows)
    assert collated["attention_mask"].tolist() == batch["attention_mask"]
    assert collated["labels"].tolist() == [[97, 257, -100, -100], [97, 98, 99, 257]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"padding": "max_length"}, "says no length"),
        ({"padding": "widest"}, "says no length"),
        ({"truncation": True}, "truncation needs max_length"),
        ({"max_length": 0}, "leaves no token"),
        ({"return_tensors": "pt"}, "unequal length"),
        ({"return_tensors": "tf", "padding": True}, "is unknown"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ByteTokenizer()(["a", "abc"], **options)


def test_a_tokenizer_without_pad_says_how_to_pad() -> None:
    tokenizer: Any = ByteTokenizer()
    tokenizer.pad_token_id = None
    with pytest.raises(DataError, match="pads are masked by length"):
        tokenizer(["a", "abc"], padding=True)
