"""A push goes whole, in one commit, to a repository of its own; a dry run asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli.conftest import torchstone  # noqa: F401
from export.conftest import plain
from zoo.documented import schema
from zoo.hub import Hub, hub

from torchstone._errors import DataError, EnvironmentProblem, Offline, UsageError
from torchstone.export.bundle import export
from torchstone.export.formats import chosen
from torchstone.export.hub import Push, plan_push


@pytest.fixture
def remote() -> Iterator[Hub]:
    with hub() as it:
        yield it


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(plain(), tmp_path_factory.mktemp("hub") / "bundle", chosen("pt2")).path


@pytest.fixture
def plan(small: Path) -> Push:
    return plan_push(small, "me/first")


def pushed(plan: Push, remote: Hub, **more: Any) -> str:
    return plan.push(token="hf_x", endpoint=remote.address, **more)


def test_every_file_arrives_and_stale_ones_leave(plan: Push, remote: Hub) -> None:
    remote.files = {".gitattributes": b"", "bundle.json": b"{}", "old.bin": b"of yesterday"}
    assert pushed(plan, remote, private=True) == f"{remote.address}/me/first/commit/{1:040x}"
    assert (remote.repo, remote.private, remote.commits) == ("me/first", True, 1)
    there = {name: data for name, data in remote.files.items() if name != ".gitattributes"}
    assert there == {name: (plan.folder / name).read_bytes() for name in plan.files}
    assert "bundle.json" in there and "old.bin" not in there


def test_a_repository_with_something_else_is_left_alone(plan: Push, remote: Hub) -> None:
    remote.files = {".gitattributes": b"", "thesis.tex": b"x"}
    with pytest.raises(UsageError, match=r"holds something else: thesis\.tex"):
        pushed(plan, remote)
    assert (remote.commits, sorted(remote.files)) == (0, [".gitattributes", "thesis.tex"])


def test_what_arrives_differently_is_told(plan: Push, remote: Hub) -> None:
    remote.loses = "model.pt2"
    with pytest.raises(DataError, match=r"model\.pt2 does not lie in me/first as it was sent"):
        pushed(plan, remote)


def test_refusals_and_silence_have_their_own_errors(plan: Push, remote: Hub) -> None:
    remote.refuses = 403
    with pytest.raises(EnvironmentProblem, match="does not let you write") as told:
        pushed(plan, remote)
    assert "HF_TOKEN" in told.value.next and "hf_x" not in str(told.value)
    remote.refuses = 400
    with pytest.raises(EnvironmentProblem, match="refuses me/first"):
        pushed(plan, remote)
    with pytest.raises(Offline, match="was not pushed"):
        plan.push(token="hf_x", endpoint="http://127.0.0.1:9")


def test_the_command_lists_first_and_pushes_when_told(
    torchstone: Any,  # noqa: F811
    small: Path,
    remote: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", remote.address)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    line = ("export", small, "--push", "me/first")
    answer = torchstone(*line, "--json")
    assert answer.code == 0, answer.err
    jsonschema.validate(answer.object, schema("torchstone.push/1"))
    assert (answer.object["commit"], remote.asked) == (None, [])
    assert "would go to me/first; nothing was pushed" in torchstone(*line).out
    assert torchstone(*line, "--yes", "--dry-run").code == 0
    assert remote.asked == []
    assert (
        torchstone(*line, "--yes", "--json").object["commit"].startswith(f"{remote.address}/me/first/commit/")
    )
    assert remote.files["bundle.json"] == (small / "bundle.json").read_bytes()
    for more, code in ((["--push", "a/b/c"], 2), (["--push", "me/x", "--formats", "pt2"], 2)):
        assert torchstone("export", small, *more).code == code
