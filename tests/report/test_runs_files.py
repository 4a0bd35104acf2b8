"""`torchstone runs export | rm | gc`: rows leave whole, and only what nobody needs leaves the disk."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.documented import schema

from torchstone.cli.main import run
from torchstone.report.rows_file import COLUMNS, write_rows
from torchstone.tracking.marks import PUBLISHED
from torchstone.tracking.model_registry import ModelRegistry
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store

VALUES = st.floats(allow_nan=True, allow_infinity=True)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1, max_size=8)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    with Store.open() as store:
        for name in ("first", "second"):
            made = RunFolder.create(f"runs/{name}", name=name)
            (made.path / "metrics.txt").write_bytes(b"x" * 1000)
            store.start_run(made.run_id, name=name, kind="train", run_dir=made.path)
            store.log_rows(made.run_id, [MetricRow("train/loss", step, 1.0 / step, 5.5) for step in (1, 2)])
            store.finish_run(made.run_id, "completed")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run(["runs", *arguments, "--json"]) == code
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, schema(told["schema"]))
    return told


def named(name: str) -> str:
    return RunFolder.open(f"runs/{name}").run_id


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of any format, as the program that it is for reads them."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {**row, "step": int(row["step"]), "value": float(row["value"])} for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("rows") / "store.db") as store:
        yield store


@settings(max_examples=15, deadline=None)
@given(rows=st.dictionaries(st.tuples(NAMES, st.integers(0, 9)), VALUES, min_size=1, max_size=6), name=NAMES)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_is_written_is_what_is_read(
    store: Store, form: str, rows: dict[tuple[str, int], float], name: str
) -> None:
    path = Path(store.where).with_name(f"rows.{form}")
    store.start_run("a1", name=name, kind="train", run_dir="")
    store.log_rows("a1", [MetricRow(key, step, value, 5.5) for (key, step), value in rows.items()])
    assert write_rows(store, store.runs(), path) == len(rows)
    store.remove_run("a1")
    found = read(path)
    assert all(tuple(row) == COLUMNS and row["run_id"] == "a1" for row in found)
    assert {datetime.fromisoformat(row["time"]).timestamp() for row in found} == {5.5}

    def plain(text: str) -> str:
        return text.removeprefix("'") if form == "csv" and text[1:2] in tuple("=+-@\t\r\n") else text

    assert {plain(row["run"]) for row in found} == {name}
    there = {(plain(row["key"]), row["step"]): row["value"] for row in found}
    assert there.keys() == rows.keys()
    for place, value in rows.items():
        if form == "jsonl" and not math.isfinite(value):
            assert there[place] is None
        else:
            assert there[place] == value or (math.isnan(there[place]) and math.isnan(value))


def test_a_spreadsheet_gets_no_formula(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        store.start_run("a1", name='=HYPERLINK("http://a")', kind="train", run_dir="")
        store.log_rows("a1", [MetricRow("@SUM(A1)", 1, -1.0)])
        write_rows(store, store.runs(), tmp_path / "rows.csv")
    (row,) = read(tmp_path / "rows.csv")
    assert row["run"].startswith("'=") and row["key"].startswith("'@") and row["value"] == -1.0


def test_some_runs_and_metrics_can_be_chosen(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "export", "runs/first", "--keys", "train/loss,val/loss", "--out", "rows.jsonl")
    assert (told["runs"], told["rows"]) == (1, 2)
    assert {row["run_id"] for row in read(Path("rows.jsonl"))} == {named("first")}
    assert said(capsys, "export", "--out", "rows.csv")["rows"] == 4
    assert "give a name that ends in" in said(capsys, "export", "--out", "rows.xls", code=2)["next"]


def test_a_run_is_copied_to_a_service_afterwards(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "say where" in said(capsys, "sync", "runs/first", code=2)["next"]
    (told,) = said(capsys, "sync", "runs/first", "--to", "tensorboard")["sinks"]
    assert told == {"sink": "tensorboard", "sent": 2, "waiting": 0, "error": ""}
    assert len(list(Path("runs/first/tensorboard").iterdir())) == 1
    assert said(capsys, "sync", named("first"))["sinks"] == [told], "nothing is sent twice"
    (read,) = said(capsys, "import", "tensorboard", "runs/first/tensorboard")["runs"]
    assert read == {"run_id": "tensorboard-tensorboard", "name": "tensorboard", "rows": 2}
    assert "nothing to import" in said(capsys, "import", "wandb", "runs/first", code=2)["what"]


def test_removal_is_shown_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "rm", "runs/first")
    assert told["removed"] is False
    (shown,) = told["runs"]
    assert shown["folder"] == str(home / "runs" / "first") and shown["bytes"] > 1000
    assert len(said(capsys, "list")["runs"]) == 2 and Path("runs/first").is_dir()

    first = named("first")
    assert said(capsys, "rm", first, "--yes")["removed"] is True
    assert [each["name"] for each in said(capsys, "list")["runs"]] == ["second"]
    assert sorted(path.name for path in Path("runs").iterdir() if path.is_dir()) == ["second"]
    with Store.open() as store:
        assert store.metrics(first) == []
    said(capsys, "rm", first, "--yes", code=2)


def test_a_run_that_something_rests_on_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = named("first"), named("second")
    with Store.open() as store:
        store.add_event(first, PUBLISHED, {"page": "claims/better"})
        ModelRegistry(store).register_model(
            "notes", "1", Path("runs/second/metrics.txt"), "causal-lm", "", {}, training_run_id=second
        )
    for run_id, reason in ((first, "claims/better"), (second, "notes@1")):
        assert reason in said(capsys, "rm", run_id)["runs"][0]["held_by"][0]
        assert reason in said(capsys, "rm", run_id, "--yes", code=2)["why"]
    with Store.open() as store:
        free = RunFolder.create("runs/free")
        store.start_run(free.run_id, name="free", kind="train", run_dir=free.path)
    assert "nothing was removed" in said(capsys, "rm", free.run_id, first, "--yes", code=2)["what"]
    assert Path("runs/first/metrics.txt").exists() and free.path.exists()
    said(capsys, "rm", first, "--yes", "--force")
    assert not Path("runs/first").exists()


def test_a_run_that_is_being_written_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder.open("runs/first").locked():
        assert said(capsys, "rm", "runs/first", "--yes", code=75)["error"] == "RunLocked"
        Path("runs/first/.report.json.1.partial").touch()
        assert said(capsys, "gc", "--yes")["litter"] == []
    assert Path("runs/first/.report.json.1.partial").exists()


def test_a_folder_that_holds_another_run_is_not_touched(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = named("first")
    Path("runs/first").rename("runs/old")
    Path("runs/second").rename("runs/first")
    (shown,) = said(capsys, "rm", first, "--yes")["runs"]
    assert shown["folder"] is None
    assert Path("runs/first/metrics.txt").exists() and Path("runs/old/metrics.txt").exists()


def test_garbage_is_what_no_run_needs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "gc", "--yes")["litter"] == []
    first = Path("runs/first")
    damaged = first / "checkpoints" / "quarantine" / "step-3.1"
    damaged.mkdir(parents=True)
    (damaged / "model.safetensors").write_bytes(b"y" * 500)
    (first / "checkpoints" / ".step-4.77.partial").mkdir()
    (first / ".report.json.77.partial").touch()
    (first / "checkpoints" / "step-2").mkdir()
    gone = named("second")
    Path("runs/second").rename(f"runs/.second.{os.getpid()}.removed")  # a removal that was killed

    shown = said(capsys, "gc")
    assert shown["removed"] is False
    kinds = sorted(each["kind"] for each in shown["litter"])
    assert kinds == ["quarantined", "removed", "row", "unfinished", "unfinished"]
    assert {each["bytes"] for each in shown["litter"] if each["kind"] == "quarantined"} == {500}
    assert damaged.exists()

    assert said(capsys, "gc", "--yes")["litter"] == shown["litter"]
    assert said(capsys, "gc")["litter"] == []
    assert (first / "checkpoints" / "step-2").exists() and (first / "metrics.txt").exists()
    assert not damaged.exists() and [path.name for path in Path("runs").iterdir() if path.is_dir()] == [
        "first"
    ]
    with Store.open() as store:
        assert gone not in [each.run_id for each in store.runs()]
