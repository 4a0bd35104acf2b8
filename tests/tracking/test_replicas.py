"""Copies at services: row for row what the store has, whatever the service does, and never in the way."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import DataError, TryAgain, UsageError
from torchstone.tracking import replica
from torchstone.tracking.imports import IMPORTS, keep
from torchstone.tracking.replica import Replica, catch_up, replicate
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.sinks import SINKS, Copied, SinkRecord
from torchstone.tracking.store import Store
from torchstone.tracking.wandb_file import read_wandb

ROWS = [MetricRow("train/loss", step, 1.0 / step, 5.0 + step) for step in (1, 2, 3, 4)]
ROWS += [MetricRow("val/loss", step, 2.0 / step, 6.0 + step) for step in (2, 4)]


class Service:
    """A service by its memory: what it got; it fails or hangs when told so."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], float] = {}
        self.steps: list[int] = []
        self.ends: list[str] = []
        self.healthy = True
        self.hangs = threading.Event()
        self.hangs.set()

    def make(self, copied: Copied) -> Service:
        copied.state.setdefault("id", copied.run.run_id)
        return self

    def send(self, step: int, values: Mapping[str, float], at: float) -> None:
        self.hangs.wait(30)
        if not self.healthy:
            raise ConnectionError("no route to the service")
        self.steps.append(step)
        self.rows |= {(key, step): value for key, value in values.items()}

    def close(self, status: str) -> None:
        self.ends.append(status)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "one", name="one")


@pytest.fixture
def store(folder: RunFolder) -> Iterator[Store]:
    with Store.open(folder.path.parent / "store.db") as store:
        store.start_run(folder.run_id, name="one", kind="train", run_dir=folder.path, config={"a": 1})
        yield store


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Registered as the sink `fake`, for one test."""
    service = Service()
    record = SinkRecord(name="fake", make=service.make, extra="none", any_order=True)
    monkeypatch.setitem(SINKS._records, "fake", record)
    monkeypatch.setattr(replica, "available", lambda module: True)
    return service


def rows_of(store: Store, folder: RunFolder) -> dict[tuple[str, int], float]:
    return {(row.key, row.step): row.value for row in store.metrics(folder.run_id)}


def test_rows_arrive_while_the_run_is_written(store: Store, folder: RunFolder, service: Service) -> None:
    live = Replica(store, folder, SINKS.get("fake"), every_s=0.01)
    arrived = threading.Event()
    send = service.send
    service.send = lambda *args: (send(*args), arrived.set())[0]  # type: ignore[method-assign]
    store.log_rows(folder.run_id, ROWS)
    assert arrived.wait(30), "nothing came before the end"
    store.finish_run(folder.run_id, "completed")
    report = live.close()
    assert (report.sent, report.waiting, report.error) == (len(ROWS), 0, "")
    assert service.rows == rows_of(store, folder)
    assert service.steps == [1, 2, 3, 4] and service.ends == ["completed"], "whole steps, each once"


PLACES = st.tuples(st.sampled_from("abc"), st.integers(0, 12))


@settings(max_examples=15, deadline=None)
@given(
    batches=st.lists(st.dictionaries(PLACES, st.floats(-9, 9)), max_size=5),
    healthy=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_whatever_was_missed_is_there_after_a_sync(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[dict[tuple[str, int], float]],
    healthy: list[bool],
) -> None:
    """Rows come in any order, also late, and the service comes and goes."""
    service = Service()
    record = SinkRecord(name="fake", make=service.make, extra="none", any_order=True)
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "one")
    with Store.open(tmp_path_factory.getbasetemp() / "shared.db") as store:
        store.start_run(folder.run_id, name="one", kind="train", run_dir=folder.path)
        known: set[tuple[str, int]] = set()
        for batch, service.healthy in zip(batches, healthy, strict=False):
            new = {place: value for place, value in batch.items() if place not in known}
            known |= new.keys()
            store.log_rows(folder.run_id, [MetricRow(*place, value) for place, value in new.items()])
            Replica(store, folder, record, every_s=30).close()
        service.healthy = True
        last = Replica(store, folder, record, every_s=30).close()
        assert (last.waiting, last.error) == (0, "")
        assert service.rows == rows_of(store, folder)


def test_an_outage_costs_the_run_nothing_and_is_told(
    store: Store, folder: RunFolder, service: Service
) -> None:
    service.healthy = False
    with replicate(["fake"], store, folder) as replicas:
        store.log_rows(folder.run_id, ROWS)
    report = replicas[0].report
    assert report.waiting == len(ROWS) and "no route to the service" in report.error
    assert rows_of(store, folder).keys() == {(row.key, row.step) for row in ROWS}
    assert "no route" in catch_up(store, folder, "fake").error
    service.healthy = True
    assert catch_up(store, folder, "fake").waiting == 0
    assert service.rows == rows_of(store, folder)


def test_a_service_that_hangs_is_left_behind(store: Store, folder: RunFolder, service: Service) -> None:
    service.hangs.clear()
    live = Replica(store, folder, SINKS.get("fake"), every_s=0.01)
    store.log_rows(folder.run_id, ROWS)
    report = live.close(timeout_s=0.05)
    assert report.waiting == len(ROWS) and "did not answer" in report.error
    service.hangs.set()
    live._thread.join(30)


def test_a_store_that_is_busy_at_the_end_is_told(
    store: Store, folder: RunFolder, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> dict[str, int]:
        raise TryAgain("the store is busy")

    with replicate(["fake"], store, folder) as replicas:
        store.log_rows(folder.run_id, ROWS)
        monkeypatch.setattr(store, "count_rows", busy)
    assert "busy" in replicas[0].report.error


def test_a_resumed_run_is_sent_once(store: Store, folder: RunFolder, service: Service) -> None:
    store.log_rows(folder.run_id, ROWS)
    assert catch_up(store, folder, "fake").sent == len(ROWS)
    store.truncate_after(
        folder.run_id, 2
    )  # it goes on from an earlier checkpoint, and computes the same again
    store.log_rows(folder.run_id, ROWS)
    assert catch_up(store, folder, "fake").waiting == 0
    assert service.steps == [1, 2, 3, 4]
    store.log_rows(folder.run_id, [MetricRow("train/loss", 5, 0.1)])
    assert catch_up(store, folder, "fake").sent == len(ROWS) + 1
    assert service.steps == [1, 2, 3, 4, 5]


def test_names_and_missing_libraries_are_told_before_the_training(
    store: Store, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="wandbb"), replicate(["wandbb"], store, folder):
        pass
    monkeypatch.setattr(replica, "available", lambda module: False)
    with pytest.raises(ImportError, match=r"torchstone\[wandb\]"), replicate(["wandb"], store, folder):
        pass


def test_secrets_of_a_configuration_stay(store: Store, folder: RunFolder) -> None:
    key = "hf_" + "a" * 30
    store.start_run(folder.run_id, name="one", kind="train", run_dir=folder.path, config={"data.source": key})
    assert key not in str(Copied(store.run(folder.run_id), folder.path, {}).config)


# --- the real services, without a network ---------------------------------------------------------------


PLACES_OF: dict[str, Callable[[RunFolder], str]] = {
    "tensorboard": lambda folder: str(folder.path / "tensorboard"),
    "mlflow": lambda folder: f"sqlite:///{folder.path.parent / 'mlflow.db'}",
    "wandb": lambda folder: str(folder.path / "wandb"),
}
NEVER_RUN = {"trackio": "its releases ask for older versions of huggingface-hub and pillow than ours"}


def test_every_sink_is_read_back() -> None:
    assert PLACES_OF.keys() | NEVER_RUN.keys() == set(SINKS.names()) == set(IMPORTS.names())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", PLACES_OF)
def test_a_service_gets_every_row_and_an_import_brings_it_back(
    store: Store, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In two sessions, as a run that was interrupted."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for variable in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    rows = [*ROWS, MetricRow("odd", 1, math.nan, 6.0), MetricRow("odd", 2, math.inf, 7.0)]
    store.log_rows(folder.run_id, [row for row in rows if row.step <= 2])
    assert catch_up(store, folder, name).error == ""
    store.log_rows(folder.run_id, rows)
    store.finish_run(folder.run_id, "completed")
    report = catch_up(store, folder, name)
    assert (report.error, report.waiting) == ("", 0)

    for _ in range(2):  # the second import finds everything there
        (read,) = IMPORTS.get(name).read(PLACES_OF[name](folder))
        assert keep(store, read) == len(rows), "each row once"
    again = store.run(read.run_id)
    assert (again.status, again.kind) == ("completed", "import")
    assert name == "tensorboard" or (again.name, str(again.config["a"])) == ("one", "1")
    assert [(row.key, row.step) for row in store.metrics(read.run_id)] == [
        (row.key, row.step) for row in store.metrics(folder.run_id)
    ]
    for mine, theirs in zip(store.metrics(folder.run_id), store.metrics(read.run_id), strict=True):
        assert math.isclose(mine.value, theirs.value, rel_tol=1e-6) or math.isnan(mine.value + theirs.value)


def test_a_file_that_a_killed_process_left_is_read_up_to_there(
    store: Store, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    many = [MetricRow(f"key-{number:02}", step, 1.0) for step in range(60) for number in range(40)]
    store.log_rows(folder.run_id, many)  # several blocks of the file's format
    assert catch_up(store, folder, "wandb").error == ""
    (whole,) = (folder.path / "wandb").glob("offline-run-*/run-*.wandb")
    assert len(read_wandb(whole).rows) == len(many)
    torn = tmp_path / "run-torn.wandb"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    read = read_wandb(torn)
    assert 0 < len(read.rows) < len(many) and read.exit_code is None
    torn.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no run file"):
        read_wandb(torn)


def test_a_project_of_trackio_is_read(tmp_path: Path) -> None:
    """A file with the tables of trackio 0.43."""
    path = tmp_path / "notes.db"
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
            "timestamp TEXT NOT NULL, run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL)"
        )
        file.execute("CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT)")
        file.execute("INSERT INTO configs (run_name, config) VALUES ('tidy-cat', '{\"lr\": 0.1}')")
        for step in (0, 1):
            record = f'{{"loss": {2 - step}, "word": "x", "odd": "NaN"}}'
            file.execute(
                "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES "
                "('a', '2026-01-31T12:00:00+00:00', 'tidy-cat', ?, ?)",
                (step, record),
            )
    (read,) = IMPORTS.get("trackio").read(str(path))
    assert (read.name, read.config) == ("tidy-cat", {"lr": 0.1})
    assert [(row.key, row.step) for row in read.rows] == [("loss", 0), ("odd", 0), ("loss", 1), ("odd", 1)]
    assert read.started == 1769860800.0
    for wrong in (tmp_path / "nothing.db", Path(__file__)):
        with pytest.raises((UsageError, DataError)):
            list(IMPORTS.get("trackio").read(str(wrong)))
