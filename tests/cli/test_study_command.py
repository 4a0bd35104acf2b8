"""`torchstone study` as it is typed: the documented commands run, and print what the documents promise."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from zoo.documented import schema

from torchstone.cli.main import run
from torchstone.cli.study_estimate import app

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"


def test_the_page_on_studies_tells_commands_that_run(torchstone: Callable[..., Any]) -> None:
    blocks = re.findall(r"^```sh\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("torchstone")]
    assert len(commands) >= 3
    for command in commands:
        _, *arguments = shlex.split(command, comments=True)
        if arguments[1] not in ("list", "show", "check", "estimate"):
            continue  # what runs cells is tried where cells are run
        answer = torchstone(*arguments)
        assert answer.code == 0, f"{command}\n{answer.err}"
        assert answer.out


def test_the_examples_of_the_page_are_sound(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    steps, axes, adjust, extended = re.findall(
        r"^```toml\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "steps.toml").write_text(steps)
    (tmp_path / "extended.toml").write_text(extended)
    (tmp_path / "axes.toml").write_text('[study]\nname = "grid"\nkind = "matrix"\n' + axes + adjust)
    for path in ("steps.toml", "extended.toml", "axes.toml"):
        answer = torchstone("study", "show", path)
        assert answer.code == 0, answer.err
    assert "dropped 1 of 4: no time for these (1)" in answer.out


def test_list_and_show_print_the_documented_objects(torchstone: Callable[..., Any]) -> None:
    listed = torchstone("study", "list", "--json").object
    jsonschema.validate(listed, schema("torchstone.study-list/1"))
    for each in listed["studies"]:
        shown = torchstone("study", "show", each["name"], "--json").object
        jsonschema.validate(shown, schema("torchstone.study/1"))
        assert len({cell["id"] for cell in shown["cells"]}) == len(shown["cells"])


def test_estimate_prints_the_documented_object_and_leaves_no_trace(
    torchstone: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "two.toml").write_text(TWO)
    answer = torchstone("study", "estimate", "two.toml", "--json")
    jsonschema.validate(answer.object, schema("torchstone.study-estimate/1"))
    assert answer.object["seconds"] is None
    assert [each.name for each in tmp_path.iterdir()] == ["two.toml"]


def test_every_command_on_a_study_takes_the_same_words_to_choose_its_part() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"list", "show", "check", "estimate", "run", "status", "report"} == commands.keys()
    for name in commands.keys() - {"list"}:
        taken = {option for each in commands[name].params for option in each.opts}
        assert {"name", "--only", "--steps", "--seeds", "--config", "--set"} <= taken, name


def test_a_reader_that_leaves_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True) as gone:
        monkeypatch.setattr("sys.stdout", gone)
        monkeypatch.setattr("sys.stderr", sys.stderr)  # the parser puts its own in their places
        assert run(["study", "list"]) == 0


def test_a_wrong_file_is_told_with_its_line(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(
        '[study]\nname = "bad"\nkind = "ablation"\n[[step]]\nid = "0"\nsett = {}\n'
    )
    answer = torchstone("study", "show", "bad.toml")
    assert answer.code == 2
    assert "bad.toml:6" in answer.err
    assert "did you mean 'set'" in answer.err


def test_check_prints_the_documented_object(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TWO)
    answer = torchstone("study", "check", "two.toml", "--seeds", 1, "--json")
    jsonschema.validate(answer.object, schema("torchstone.study-check/1"))
    assert answer.code == 0
    assert [each["status"] for each in answer.object["steps"]] == ["pass", "pass"]
    refused = torchstone("study", "check", "two.toml", "--seeds", 2)
    assert refused.code == 2 and "seed" in refused.err


def test_a_claim_that_fails_is_told_with_the_command_to_look_closer(
    torchstone: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "two.toml").write_text(TWO.replace('"<0"', '"+0"'))
    answer = torchstone("study", "check", "two.toml", "--steps", "1")
    assert answer.code == 1
    assert "1  fails  parameters: expected +0; measured -" in answer.out
    assert "torchstone study check two.toml --steps 1 -v" in answer.out


TWO = """\
[study]
name = "two"
kind = "ablation"
[study.set]
model = { vocab_size = 64, d_model = 16, num_layers = 1, num_heads = 2, max_seq_len = 32 }
[[step]]
id = "0"
[[step]]
id = "1"
parent = "0"
set = { "model.d_ff" = 32 }
claims = { parameters = "<0" }
"""


def test_a_configuration_can_name_the_study(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TWO)
    assert "which study?" in torchstone("study", "show").err
    torchstone("config", "defconfig", "gpt-nano", "--set", "model.dropout=0.25")
    assert "names no study" in torchstone("study", "show").err
    torchstone(
        "config", "defconfig", "gpt-nano", "--set", "model.dropout=0.25", "--set", "study.name=two.toml"
    )
    shown = torchstone("study", "show", "--json").object
    assert shown["study"] == "two"
    named = torchstone("study", "show", "two.toml", "--json").object
    assert [each["id"] for each in shown["cells"]] != [each["id"] for each in named["cells"]]
