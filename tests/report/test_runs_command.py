"""`torchstone runs`: reads the store, prints tables or JSON, leaves the disk as it was."""

from __future__ import annotations

import json
import math

import pytest
from report.reports import ORDINARY, a_run

from torchstone.cli.main import run
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs" / "store.db"
    with Store.open(path) as store:
        a_run(store, "20260101-a")
        a_run(store, "20260102-b", **{"val/loss": lambda step: 1.5, "train/loss": lambda step: math.nan})
        store.add_checks("20260101-a", ORDINARY)
    return path


def said(capsys, *arguments: str, code: int = 0) -> str:
    assert run(["runs", *arguments]) == code
    return capsys.readouterr().out


def test_list_show_compare_best_in_words(path, capsys):
    listed = said(capsys, "list")
    assert listed.index("20260102-b") < listed.index("20260101-a")
    shown = said(capsys, "show", "20260101")
    assert "best val/loss" in shown
    assert "causal-leak" in shown
    assert "val/loss" in said(capsys, "compare", "20260101-a", "20260102-b")
    assert said(capsys, "best").startswith("20260102-b  val/loss 1.5 at step 1")
    assert sorted(each.name for each in path.parent.iterdir()) == ["store.db"]


def test_json_has_a_schema_and_strict_values(path, capsys):
    def no_constant(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    for schema, *arguments in (
        ("torchstone.runs/1", "list"),
        ("torchstone.run/1", "show", "20260101"),
        ("torchstone.compare/1", "compare", "20260101", "20260102"),
        ("torchstone.best/1", "best", "--metric", "val/loss"),
    ):
        answer = json.loads(said(capsys, *arguments, "--json"), parse_constant=no_constant)
        assert next(iter(answer)) == "schema"
        assert answer["schema"] == schema


def test_a_run_can_be_named_by_its_folder_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    folder = RunFolder.create(tmp_path / "else" / "first", name="n")
    with Store.open(tmp_path / "else" / "store.db") as store:
        a_run(store, folder.run_id)
    monkeypatch.chdir(tmp_path)
    assert folder.run_id in said(capsys, "show", str(folder.path))


def test_wrong_use_is_told(path, capsys):
    said(capsys, "compare", "20260101", code=2)
    said(capsys, "best", "--mode", "up", code=2)
    said(capsys, "show", "2026", code=2)
    answer = json.loads(said(capsys, "show", "nothing", "--json", code=2))
    assert answer["next"] == "torchstone runs list"


def test_without_a_store_nothing_is_created(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    said(capsys, "list", code=2)
    assert list(tmp_path.iterdir()) == []


def test_marks_are_kept_shown_and_taken_back(path, capsys):
    said(capsys, "tag", "20260101", "arm-a", "seed-1")
    assert "tags: arm-a" in said(capsys, "tag", "20260101", "seed-1", "--remove")
    answer = json.loads(said(capsys, "invalidate", "20260101", "--why", "leaked", "--json"))
    assert answer["schema"] == "torchstone.marks/1"
    assert (answer["run_id"], answer["tags"], answer["invalid"]) == ("20260101-a", ["arm-a"], "leaked")
    shown = said(capsys, "show", "20260101")
    assert "arm-a" in shown
    assert "leaked" in shown
    answer = json.loads(said(capsys, "show", "20260101", "--json"))
    assert (answer["tags"], answer["invalid"]) == (["arm-a"], "leaked")
    assert "not to be relied on" not in said(capsys, "invalidate", "20260101", "--why", "no", "--undo")
    with Store.open(path, readonly=True) as store:
        assert [event.kind for event in store.events("20260101-a")][-4:] == [
            "tagged", "untagged", "invalidated", "revalidated"
        ]  # fmt: skip


def test_marks_that_say_nothing_are_refused(path, capsys):
    before = path.read_bytes()
    said(capsys, "tag", "20260101", "a,b", code=2)
    said(capsys, "tag", "20260101", "absent", "--remove", code=2)
    said(capsys, "invalidate", "20260101", "--why", " ", code=2)
    said(capsys, "invalidate", "20260101", "--why", "x", "--undo", code=2)
    said(capsys, "tag", "nothing", "a", code=2)
    with Store.open(path, readonly=True) as store:
        assert "tagged" not in {event.kind for event in store.events("20260101-a")}
    assert path.read_bytes() == before


def test_a_mark_does_not_make_a_store(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    said(capsys, "tag", "a", "b", code=2)
    assert list(tmp_path.iterdir()) == []
