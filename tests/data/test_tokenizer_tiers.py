"""The chain of fall-backs: every tier, what follows when it cannot be had, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from torchstone._errors import ConfigError, DataError, MissingExtra, Offline
from torchstone.data.bpe import train_bpe
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.tokenizer_tiers import choose_tokenizer

TEXTS = ["the same words come again, the same words come again and again\n"] * 4


def texts():
    return iter(TEXTS)


def offline(name: str):
    raise Offline(f"{name} is not here")


def test_a_known_size_takes_the_known_tokenizer_and_says_who_shares_it() -> None:
    asked = []
    choice = choose_tokenizer(
        50304, texts, prefer="pretrained", fetch=lambda name: asked.append(name) or ByteTokenizer()
    )
    assert (choice.tier, choice.kind, asked) == (1, "pretrained", ["openai-community/gpt2"])
    assert "pythia" in choice.reason
    assert choice.fallbacks == ()


def test_without_the_hub_a_bpe_is_trained_and_the_reason_told() -> None:
    choice = choose_tokenizer(50304, texts, prefer="pretrained", fetch=offline)
    assert (choice.tier, choice.kind) == (2, "bpe")
    assert "openai-community/gpt2 is not here" in choice.fallbacks[0]
    assert "no further pair" in choice.reason


def test_a_licence_that_nobody_accepted_is_a_reason_too() -> None:
    def gated(name: str):
        raise DataError(f"the hub gives {name} only to those who accepted its licence")

    choice = choose_tokenizer(128256, None, prefer="pretrained", fetch=gated)
    assert (choice.tier, choice.tokenizer.vocab_size) == (3, 128256)
    assert "accepted its licence" in choice.fallbacks[0]
    with pytest.raises(DataError, match="licence"):
        choose_tokenizer(128256, None, prefer="pretrained:llama-3", fetch=gated)


def test_without_hub_text_and_library_there_are_characters() -> None:
    no_text = choose_tokenizer(50304, None, prefer="pretrained", fetch=offline)
    assert (no_text.tier, no_text.tokenizer.vocab_size) == (3, 50304)
    assert len(no_text.fallbacks) == 2

    def no_library(size: int):
        raise MissingExtra("tokenizers is not installed")

    choice = choose_tokenizer(700, texts, train=no_library)
    assert (choice.tier, choice.tokenizer.vocab_size) == (3, 700)
    assert "tokenizers is not installed" in choice.fallbacks[0]
    text = "ends in a working tokenizer: 中文 \ud800"
    assert choice.tokenizer.decode(choice.tokenizer.encode(text)) == text


def test_the_chain_ends_well_in_a_python_without_any_library() -> None:
    code = (
        "import sys\n"
        "for name in ('tokenizers', 'transformers', 'huggingface_hub', 'sentencepiece', 'tiktoken'):\n"
        "    sys.modules[name] = None\n"
        "from torchstone.data.tokenizer_tiers import choose_tokenizer\n"
        "for prefer in ('pretrained', 'auto'):\n"
        "    choice = choose_tokenizer(50257, lambda: ['a text'], prefer=prefer)\n"
        "    assert choice.tokenizer.decode(choice.tokenizer.encode('é\\ud800')) == 'é\\ud800'\n"
        "    print(choice.tier, len(choice.fallbacks))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "2", "3", "1"]


def test_a_size_of_several_families_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match=r"more than one tokenizer(.|\n)*pretrained:mistral-v0\.1"):
        choose_tokenizer(32000, texts, prefer="pretrained", fetch=offline)


def test_a_named_tokenizer_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(Offline):
        choose_tokenizer(50257, texts, prefer="pretrained:gpt2", fetch=offline)
    with pytest.raises(Offline, match="someone/else"):
        choose_tokenizer(50257, texts, prefer="pretrained:someone/else", fetch=offline)
    with pytest.raises(DataError, match="no tokenizer here"):
        choose_tokenizer(50257, texts, prefer=str(tmp_path / "absent.json"))


@pytest.mark.parametrize("size", [100, 257, 258, 500, 5000])
def test_small_vocabularies_have_characters(size: int) -> None:
    choice = choose_tokenizer(size, texts if size < 258 else None)
    assert choice.tokenizer.vocab_size == size
    assert choice.kind == "char"
    assert choice.fallbacks


@pytest.mark.parametrize(
    ("prefer", "size", "said"), [("auto", 99, "too small"), ("char", 500_001, "too large")]
)
def test_impossible_sizes_are_refused(prefer: str, size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_tokenizer(size, texts, prefer=prefer)


def test_an_own_file_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    train_bpe(TEXTS, 270).save(tmp_path)
    own = choose_tokenizer(300, prefer=str(tmp_path), limit=300)
    assert (own.tier, own.kind) == (4, "file")
    with pytest.raises(DataError, match="larger than the model's vocabulary") as refused:
        choose_tokenizer(260, prefer=str(tmp_path), limit=260)
    assert refused.value.exit_code == 4


def test_a_bpe_reaches_its_size_or_is_padded_by_name() -> None:
    short = train_bpe(TEXTS, 2000)
    padded = train_bpe(TEXTS, 2000, pad_size=True)
    assert short.vocab_size < 400
    assert padded.vocab_size == 2000
    assert padded.num_unused == 2000 - short.vocab_size
    assert padded.encode(TEXTS[0]) == short.encode(TEXTS[0])
    assert padded.decode([1999]) == ""
    assert padded.byte_lengths()[1999] == 0
