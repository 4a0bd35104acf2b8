"""`torchstone serve` as a user types it; the server itself is in tests/web."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from web.conftest import made_once  # noqa: F401
from zoo.documented import schema

from torchstone.web.serving.config import ServeConfig

Typed = Callable[..., Any]
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


@pytest.mark.timeout(400)  # whoever comes first waits for the exporters
def test_a_dry_run_verifies_and_listens_nowhere(torchstone: Typed, made_once: Path) -> None:  # noqa: F811
    answer = torchstone("serve", made_once, "--dry-run", "--set", "max_batch=3", "--json")
    assert answer.code == 0, answer.err
    jsonschema.validate(answer.object, schema("torchstone.serve/1"))
    assert (answer.object["format"], answer.object["limits"]["max_batch"]) == ("onnx", 3)
    for arguments, code, said in (
        (["--host", "0.0.0.0", "--port", "0"], 1, "a token is needed"),
        (["--host", "192.0.2.1", "--token-file", made_once / "README.md"], 1, "cannot listen on 192.0.2.1"),
        (["--format", "tflite"], 1, "has no format tflite"),
    ):
        answer = torchstone("serve", made_once, *arguments)
        assert (answer.code, said in answer.err) == (code, True), answer.err


def test_what_is_wrong_is_told_before_anything_is_opened(torchstone: Typed, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for arguments, code, said in (
        (["--set", "max_bach=1"], 2, "max_bach"),
        (["--set", "max_batch"], 2, "no KEY=VALUE"),
        (["--set", "timeout_s=0"], 2, "timeout_s"),
        (["--port", "70000"], 2, "port"),
        (["--token-file", tmp_path / "empty"], 2, "is empty"),
        (["--token-file", tmp_path / "none"], 2, "cannot be read"),
        ([], 1, "is no bundle"),
    ):
        answer = torchstone("serve", tmp_path, *arguments)
        assert (answer.code, said in answer.err) == (code, True), answer.err


def test_every_limit_is_on_the_page() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    wanted = {
        name: f"{'' if field.default is None else field.default} | {field.description}".lstrip()
        for name, field in ServeConfig.model_fields.items()
    }
    assert {name: rows.get(name) for name in wanted} == wanted
