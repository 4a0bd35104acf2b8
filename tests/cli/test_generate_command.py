"""`torchstone generate`: text on stdout and nothing else, ids where there is no tokenizer, clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from zoo.documented import schema
from zoo.gist_api import ID

Typed = Callable[..., Any]


def test_a_run_continues_a_prompt_with_its_own_tokenizer(torchstone: Typed, run: Path) -> None:
    typed = ("generate", run, "--prompt", "a cat ", "--max-new-tokens", 12)
    answer = torchstone(*typed, "--json")
    assert answer.code == 0
    jsonschema.validate(answer.object, schema("torchstone.generate/1"))
    (sample,) = answer.object["samples"]
    assert len(sample["ids"]) == 12 and answer.object["prompt_ids"] == [*b"a cat "]
    for how in ("--stream", "--no-stream"):
        plain = torchstone(*typed, how)
        assert plain.out == f"{sample['text']}\n" and plain.code == 0
    assert torchstone(*typed, "--seed", 5, "--json").object["samples"] != answer.object["samples"]
    assert torchstone(*typed, "--no-cache", "--json").object["samples"] == answer.object["samples"]


def test_prompts_come_from_files_and_checkpoints_have_their_runs_tokenizer(
    torchstone: Typed, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("a cat ")
    options = ("--max-new-tokens", 5, "--num-samples", 2, "--temperature", 0)
    checkpoint = run / "checkpoints" / "step-3"
    answer = torchstone("generate", checkpoint, "--prompt-file", tmp_path / "prompt.txt", *options)
    assert answer.out.count("--- sample") == 2
    first, second = (each.partition("\n")[2].strip() for each in answer.out.split("--- sample ")[1:])
    assert first == second


def test_bare_ids_need_no_tokenizer_and_text_does(torchstone: Typed) -> None:
    answer = torchstone("generate", "zoo:gpt-nano", "--ids", "1,2,3", "--max-new-tokens", 4)
    assert answer.code == 0 and len(answer.out.split(",")) == 4
    answer = torchstone("generate", "zoo:gpt-nano", "--prompt", "x")
    assert answer.code == 4 and "--tokenizer" in answer.err
    answer = torchstone("generate", "zoo:gpt-nano", "--prompt", "x", "--tokenizer", "bytes", "--stop", "zzz")
    assert answer.code == 0 and answer.out


@pytest.mark.parametrize(
    ("typed", "code", "word"),
    [
        (("zoo:gpt-nano", "--prompt", "x", "--ids", "1"), 2, "exclude"),
        (("zoo:gpt-nano", "--ids", "one"), 2, "--ids 1,2,3"),
        (("zoo:gpt-nano", "--ids", "1", "--temperature", "-1"), 2, "temperature"),
        (("zoo:gpt-nano", "--ids", "1", "--stop", "x"), 2, "no effect"),
        (("zoo:gpt-nano", "--ids", "1", "--stream", "--num-samples", "2"), 2, "stream"),
        (("zoo:gpt-nano", "--ids", "99999999"), 4, "vocabulary"),
        (("zoo:lenet5", "--ids", "1"), 1, "cannot generate"),
        ((f"gist:{ID}", "--ids", "1"), 3, "--trust"),
    ],
)
def test_refusals_say_what_to_type(torchstone: Typed, typed: tuple[str, ...], code: int, word: str) -> None:
    answer = torchstone("generate", *typed)
    assert (answer.code, answer.out) == (code, "") and word in answer.err
