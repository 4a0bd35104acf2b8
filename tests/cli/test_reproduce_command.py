"""A capsule holds a run without its weights, and its first steps come out again to the last bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from zoo.documented import schema

from torchstone._errors import DataError, UsageError
from torchstone.export import capsule as room
from torchstone.export.archive import unpack
from torchstone.train.reproduce import compare

Typed = Callable[..., Any]
MODEL = """
import torch
class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(300, 8), torch.nn.Linear(8, 300)
    def forward(self, input_ids):
        return self.head(self.table(input_ids).cumsum(1))
"""


@pytest.fixture
def first(torchstone: Typed, tmp_path: Path) -> Path:
    """A run of three steps of a model from a file."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.py").write_text(MODEL)
    (tmp_path / "text.txt").write_text("a cat sat on a mat.\n" * 200)
    answer = torchstone(
        "train", "mine/model.py", "--data", tmp_path / "text.txt", "--task", "causal-lm", "--max-steps", 3,
        "--set", "data.tokenizer=bytes", "--set", "tracking.dashboard=n",
        "--set", "data.sequence_length=16", "--run-dir", tmp_path / "run", "-q",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return tmp_path / "run"


def test_the_first_steps_come_out_again(torchstone: Typed, first: Path, tmp_path: Path) -> None:
    answer = torchstone("export", first, "--capsule", "--json")
    assert answer.code == 0, answer.err
    jsonschema.validate(answer.object, schema("torchstone.capsule/1"))
    path = Path(answer.object["path"])
    assert answer.object["bytes"] < 100_000
    inside = {each.relative_to(tmp_path / "x").as_posix() for each in unpack(path, tmp_path / "x").rglob("*")}
    assert {"config.json", "environment.json", "metrics.jsonl", "code/model.py", "run.json"} <= inside
    assert not [name for name in inside if name.endswith((".safetensors", ".pt"))]
    assert torchstone("reproduce", path).code == 3, "the code is whoever's made the capsule"
    (tmp_path / "mine" / "model.py").unlink()
    answer = torchstone("reproduce", path, "--trust", "--json")
    jsonschema.validate(answer.object, schema("torchstone.reproduce/1"))
    assert (answer.code, answer.object["verdict"]) == (0, "REPRODUCED"), answer.object
    assert (answer.object["steps"], answer.object["compared"]) == (3, 6)
    (tmp_path / "text.txt").write_text("another cat sat there\n" * 200)
    answer = torchstone("reproduce", path, "--trust", "--json")
    assert (answer.code, answer.object["verdict"]) == (1, "FAILED")
    assert "the data is not what it was" in answer.object["why"]


def test_verdicts_follow_from_the_largest_difference() -> None:
    wanted = [(1, "train/loss", 2.0), (2, "train/loss", 1.0)]

    def verdict(one: float, other: float, changed: str | None = None) -> str:
        return compare("r", wanted, {(1, "train/loss"): one, (2, "train/loss"): other}, changed).verdict

    assert verdict(2.0, 1.0) == "REPRODUCED"
    assert verdict(2.0, math.nextafter(1.0, 2)) == "WITHIN TOLERANCE"
    assert verdict(2.0, 1.002) == "FAILED"
    assert verdict(2.0, math.nan) == "FAILED"
    assert verdict(2.0, math.nextafter(1.0, 2), "the data is not what it was") == "FAILED"
    assert compare("r", wanted, {(1, "train/loss"): 2.0}, None).verdict == "FAILED", "a step that is missing"


def test_a_capsule_too_large_leaves_pictures_out_first(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (first / "dashboard.html").write_bytes(os.urandom(200_000))
    (first / "dashboard.png").write_bytes(os.urandom(50_000))
    monkeypatch.setattr(room, "LIMIT_BYTES", 150_000)
    names = {
        each.name for each in unpack(room.write_capsule(first, tmp_path / "a.zip"), tmp_path / "a").iterdir()
    }
    assert "dashboard.png" in names
    assert "dashboard.html" not in names
    monkeypatch.setattr(room, "LIMIT_BYTES", 1000)
    with pytest.raises(DataError, match=r"the limit is 0\.001 MB"):
        room.write_capsule(first, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_what_is_no_capsule_is_refused(torchstone: Typed, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no capsule"), room.opened(tmp_path / "a.zip"):
        pass
    assert torchstone("export", "zoo:gpt-nano", "--capsule").code == 2
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("bundle.json", json.dumps({"files": {}}))
    assert torchstone("reproduce", tmp_path / "a.zip").code == 4
