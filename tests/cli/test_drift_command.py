"""`torchstone drift`: a verdict on two data sets, its exit code, and a profile that is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from zoo.documented import schema


def write_table(path: Path, mean: float, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    rows = zip(
        rng.normal(mean, 1, 200), rng.choice(["red", "blue"], 200), rng.integers(0, 9, 200), strict=True
    )
    path.write_text("size,colour,count\n" + "\n".join(f"{a},{b},{'' if c == 8 else c}" for a, b, c in rows))
    return path


def write_texts(folder: Path, words: float, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for place, size in enumerate(rng.normal(words, 8, 40)):
        text = " ".join(rng.choice(["cat", "dog", "mat"], max(1, int(size))))
        (folder / f"{place:03}.txt").write_text(text)
    return folder


def test_a_table_that_moved(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    old, new = write_table(tmp_path / "old.csv", 0, 1), write_table(tmp_path / "new.csv", 1, 3)
    answer = torchstone("drift", old, new, "--task", "tabular", "--json")
    jsonschema.validate(answer.object, schema("torchstone.drift/1"))
    assert (answer.code, answer.object["verdict"], answer.object["modality"]) == (1, "fail", "tabular")
    assert [each["feature"] for each in answer.object["features"] if each["alarm"]] == ["size"]
    page = torchstone("drift", old, new, "--task", "tabular")
    assert page.code == 1 and "fail: size drifted" in page.out


def test_a_kept_profile_stands_for_its_data(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    old, new = write_texts(tmp_path / "old", 40, 1), write_texts(tmp_path / "new", 80, 2)
    first = torchstone("drift", old, new, "--save-profile", tmp_path / "old.npz", "--json")
    second = torchstone("drift", tmp_path / "old.npz", new, "--json")
    assert first.code == second.code == 1
    assert first.object["features"] == second.object["features"]
    assert first.object["features"][0]["feature"] == "length" and first.object["features"][0]["alarm"]
    same = torchstone("drift", tmp_path / "old.npz", old)
    assert same.code == 0 and "pass: no drift is seen" in same.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("old.csv", "missing.csv"), 4),
        (("old.csv", "old.csv", "--false-alarms", "2"), 2),
        (("old.csv", "old.csv", "--save-profile", "profile.json"), 2),
        (("notes.txt", "notes.txt", "--task", "tabular"), 2),
        (("few.csv", "few.csv", "--task", "tabular"), 4),
    ],
)
def test_what_cannot_be_compared(
    torchstone: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    write_table(tmp_path / "old.csv", 0, 1)
    (tmp_path / "few.csv").write_text("a\n1\n2\n")
    (tmp_path / "notes.txt").write_text("a cat sat\n\n" * 30)
    answer = torchstone("drift", *arguments, "--json")
    jsonschema.validate(answer.object, schema("torchstone.error/1"))
    assert answer.code == code, answer.object
    assert answer.object["next"]
