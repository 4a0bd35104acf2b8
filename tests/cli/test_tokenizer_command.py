"""`torchstone tokenizer train|show|validate`: what they answer, write, refuse, and their exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from zoo.documented import schema

from torchstone.data.tokenizer import load_tokenizer

INFO, CHECK = "torchstone.tokenizer-info/1", "torchstone.tokenizer-check/1"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    file = tmp_path / "notes.txt"
    file.write_text("def add(a, b):\n    return a + b  # naïve — 中文\n" * 50)
    return file


@pytest.mark.parametrize(
    ("arguments", "kind", "size"),
    [
        (["--vocab-size", 300], "bpe", 300),
        (["--vocab-size", 1000], "bpe", 1000),
        (["--kind", "char", "--vocab-size", 150], "char", 150),
        (["--kind", "byte"], "bytes", 258),
    ],
)
def test_train_show_and_validate(
    torchstone: Callable[..., Any], notes: Path, arguments: list[Any], kind: str, size: int
) -> None:
    made = torchstone("tokenizer", "train", notes, *arguments, "--out", "tok", "--json")
    assert made.code == 0, made.err
    jsonschema.validate(made.object, schema(INFO))
    assert (made.object["kind"], made.object["vocab_size"]) == (kind, size)
    if size == 1000:
        assert made.object["num_unused"] > 0
        assert "no further pair occurs twice" in made.object["reason"]
    assert load_tokenizer("tok").vocab_size == size

    shown = torchstone("tokenizer", "show", "tok", "--text", "a + b", "--json")
    jsonschema.validate(shown.object, schema(INFO))
    assert "".join(each["text"] for each in shown.object["preview"]) == "a + b"
    assert shown.object["fingerprint"] == made.object["fingerprint"]

    proved = torchstone("tokenizer", "validate", "tok", "--rows", size, "--data", notes, "--json")
    assert proved.code == 0, proved.out
    jsonschema.validate(proved.object, schema(CHECK))
    assert proved.object["verdict"] == "pass"
    refused = torchstone("tokenizer", "validate", "tok", "--rows", size - 1)
    assert refused.code == 1
    assert "FAIL  ids-in-range" in refused.out


def test_the_rows_can_be_those_of_a_model(torchstone: Callable[..., Any]) -> None:
    proved = torchstone("tokenizer", "validate", "bytes", "--model", "zoo:gpt-nano", "--json")
    assert (proved.code, proved.object["rows"]) == (0, 2048)


def test_a_folder_that_holds_something_is_left_alone(torchstone: Callable[..., Any], notes: Path) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    answer = torchstone("tokenizer", "train", notes, "--out", "full")
    assert answer.code == 2
    assert [each.name for each in Path("full").iterdir()] == ["mine.txt"]


def test_a_dry_run_writes_nothing(torchstone: Callable[..., Any], notes: Path) -> None:
    answer = torchstone("tokenizer", "train", notes, "--out", "tok", "--dry-run", "--json")
    assert answer.code == 0
    jsonschema.validate(answer.object, schema(INFO))
    assert answer.object["source"]["bytes"] == notes.stat().st_size
    assert not Path("tok").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "absent.txt", "--out", "tok"], 4, "absent.txt"),
        (["train", "builtin:stdlib", "--out", "tok", "--kind", "word"], 2, "choose one of: bpe, char, byte"),
        (["train", "NOTES", "--out", "tok", "--kind", "byte", "--vocab-size", "300"], 2, "no effect"),
        (["train", "NOTES", "--out", "tok", "--vocab-size", "200"], 2, "too small"),
        (["train", "NOTES", "--out", "tok", "--kind", "char", "--vocab-size", "99"], 2, "too small"),
        (["show", "absent"], 2, "there is no tokenizer absent"),
        (["show", "NOTES"], 4, "this is no tokenizer.json"),
        (["validate", "bytes", "--rows", "300", "--model", "zoo:gpt-nano"], 2, "give one of them"),
    ],
)
def test_wrong_wishes_are_one_clear_error(
    torchstone: Callable[..., Any], notes: Path, arguments: list[str], code: int, said: str
) -> None:
    answer = torchstone("tokenizer", *(str(notes) if each == "NOTES" else each for each in arguments))
    assert answer.code == code, answer.err
    assert said in answer.err
    assert not Path("tok").exists()
