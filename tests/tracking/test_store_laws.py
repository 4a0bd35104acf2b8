"""Laws of the store: a row exists once, what goes in comes out, nobody's file is touched unasked."""

from __future__ import annotations

import math
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError
from tracking.postgres import KINDS, new_address

from torchstone._errors import EnvironmentProblem, TryAgain, UsageError
from torchstone.tracking import migrations, schema
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store, default_store


@pytest.fixture(scope="module", params=KINDS)
def shared(request, tmp_path_factory):
    with Store.open(new_address(request, request.param, tmp_path_factory.mktemp("store"))) as store:
        yield store


def started(store: Store, run_id: str = "a", **fields) -> str:
    store.start_run(run_id, **{"name": "n", "kind": "train", "run_dir": "runs/a"} | fields)
    return run_id


def bits(value: float) -> bytes:
    """Equality to the last bit; only the sign of zero is not kept by SQLite."""
    return b"nan" if math.isnan(value) else struct.pack("d", value + 0.0)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


keys = st.sampled_from(["train/loss", "val/loss", "x'; DROP TABLE runs --", "größe"])
row = st.tuples(keys, st.integers(0, 12), st.floats())
operation = st.one_of(
    st.tuples(st.just("log"), st.lists(row, max_size=5)),
    st.tuples(st.just("truncate"), st.integers(-1, 12)),
)
_numbers = iter(range(10**9))


# Two databases share the function, whose examples are nobody else's.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(st.lists(operation, max_size=12))
def test_any_order_of_logging_and_truncation_equals_a_dict(shared, operations):
    run_id = started(shared, f"run-{next(_numbers)}")
    model: dict[tuple[str, int], float] = {}
    for name, what in operations:
        if name == "log":
            shared.log_rows(run_id, [MetricRow(*each) for each in what])
            model |= {(key, step): value for key, step, value in what}
        else:
            gone = shared.truncate_after(run_id, what)
            assert gone == sum(step > what for _, step in model)
            model = {at: value for at, value in model.items() if at[1] <= what}
    found = {(row.key, row.step): bits(row.value) for row in shared.metrics(run_id)}
    assert found == {at: bits(value) for at, value in model.items()}
    newest = {key: max(step for other, step in model if other == key) for key, _ in model}
    last = {key: (row.step, bits(row.value)) for key, row in shared.last_values([run_id])[run_id].items()}
    assert last == {key: (step, bits(model[key, step])) for key, step in newest.items()}


def test_nan_and_infinities_come_back(store):
    run_id = started(store)
    values = [math.nan, math.inf, -math.inf, -0.0, 1e-320]
    store.log_rows(run_id, [MetricRow("x", step, value) for step, value in enumerate(values)])
    assert [bits(row.value) for row in store.metrics(run_id, "x")] == [bits(value) for value in values]
    assert store.best(run_id, "x").value == -math.inf
    assert store.best(run_id, "x", "max").value == math.inf


def test_the_best_of_equals_is_the_earliest_and_never_nan(store):
    run_id = started(store)
    values = [3.0, math.nan, 1.0, 1.0]
    store.log_rows(run_id, [MetricRow("x", step, value) for step, value in enumerate(values)])
    assert store.best(run_id, "x")[:3] == ("x", 2, 1.0)
    assert store.best(run_id, "absent") is None


def test_rows_of_an_unknown_run_are_refused_and_leave_nothing(store):
    started(store, "20260131-gpt")
    for attempt in (
        lambda: store.log_rows("20260131-gtp", [MetricRow("x", 1, 1.0)]),
        lambda: store.finish_run("20260131-gtp", "completed"),
        lambda: store.add_event("20260131-gtp", "x"),
        lambda: store.add_checks("20260131-gtp", {"verdict": "pass", "checks": []}),
        lambda: store.run("20260131-gtp"),
    ):
        with pytest.raises(UsageError, match="did you mean '20260131-gpt'"):
            attempt()
    assert store.metrics("20260131-gtp") == []


def test_a_batch_is_kept_whole_or_not_at_all(store):
    run_id = started(store)
    with pytest.raises(Exception, match="surrogates not allowed"):
        store.log_rows(run_id, [MetricRow("x", 1, 1.0), MetricRow("\ud800", 1, 1.0)])
    assert store.metrics(run_id) == []


def test_a_continued_run_keeps_its_start_and_says_running(store):
    run_id = started(store, config={"a": 1})
    first = store.run(run_id).started
    store.finish_run(run_id, "interrupted", {"steps": 3})
    ended = store.run(run_id)
    assert (ended.status, ended.summary, ended.ended >= first) == ("interrupted", {"steps": 3}, True)
    started(store, run_id, config={"a": 2})
    again = store.run(run_id)
    assert (again.started, again.status, again.ended, again.config) == (first, "running", None, {"a": 2})
    with pytest.raises(UsageError, match="no status 'done'"):
        store.finish_run(run_id, "done")


def test_runs_are_listed_newest_first_and_found_by_their_beginning(store):
    for name in ("b", "a", "c"):
        started(store, f"2026-{name}", kind="check" if name == "c" else "train")
    assert [run.run_id for run in store.runs()] == ["2026-c", "2026-a", "2026-b"]
    assert [run.run_id for run in store.runs(kind="train", limit=1)] == ["2026-a"]
    assert store.run("2026-b").run_id == "2026-b"
    with pytest.raises(UsageError, match="3 runs begin with"):
        store.run("2026-")
    started(store, "2026-")  # a full id wins over beginnings
    assert store.run("2026-").run_id == "2026-"
    assert store.runs()[0].to_dict()["started"].endswith("+00:00")


def test_a_check_report_comes_back_as_it_was_and_is_replaced_whole(store):
    run_id = started(store, kind="check")
    assert store.check_report(run_id) is None
    check = {"id": "z", "status": "pass", "measured": None, "details": {"a": [1, 2.5]}}
    report = {"schema": "torchstone.check/1", "verdict": "pass", "checks": [check, check | {"id": "a"}]}
    store.add_checks(run_id, report)
    assert store.check_report(run_id) == report
    store.add_checks(run_id, report | {"checks": [check]})
    assert store.check_report(run_id) == report | {"checks": [check]}


def test_events_come_back_in_order(store):
    run_id = started(store)
    for number in range(5):
        store.add_event(run_id, "checkpoint", {"step": number})
    assert [event.data["step"] for event in store.events(run_id)] == list(range(5))


def test_reading_leaves_no_file_behind_and_sees_a_living_writer(tmp_path):
    absent = tmp_path / "nowhere" / "store.db"
    with pytest.raises(UsageError, match="no store here"):
        Store.open(absent, readonly=True)
    assert files(tmp_path) == []

    path = tmp_path / "store.db"
    with Store.open(path) as writer:
        run_id = started(writer)
    assert files(tmp_path) == ["store.db"]
    with Store.open(path, readonly=True) as reader:
        assert [run.run_id for run in reader.runs()] == [run_id]
        assert files(tmp_path) == ["store.db"]
        with Store.open(path) as writer:
            writer.log_rows(run_id, [MetricRow("x", 1, 1.0)])
            assert len(reader.metrics(run_id)) == 1
        assert len(reader.metrics(run_id)) == 1
        with pytest.raises(UsageError, match="reading only"):
            reader.log_rows(run_id, [MetricRow("x", 2, 1.0)])
    assert files(tmp_path) == ["store.db"]


def test_somebody_elses_files_are_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and they are longer than a header of a hundred bytes " * 3)
    before = text.read_bytes()
    with pytest.raises(EnvironmentProblem, match="cannot be read"):
        Store.open(text)
    assert text.read_bytes() == before

    foreign = tmp_path / "photos.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE photos (name)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(UsageError, match="not a torchstone store"):
        Store.open(foreign)
    assert foreign.read_bytes() == before
    assert files(tmp_path) == ["notes.txt", "photos.db"]


def test_an_old_store_is_migrated_and_a_newer_one_refused(address, monkeypatch):
    every = migrations.MIGRATIONS
    monkeypatch.setattr(migrations, "MIGRATIONS", every[:1])
    with Store.open(address) as old:
        run_id = started(old)
        old.log_rows(run_id, [MetricRow("x", 1, 2.0)])
    monkeypatch.setattr(migrations, "MIGRATIONS", every)
    with Store.open(address) as migrated:
        migrated.add_event(run_id, "opened")
        assert [row.value for row in migrated.metrics(run_id)] == [2.0]
    monkeypatch.setattr(migrations, "MIGRATIONS", every[:1])
    for readonly in (True, False):
        with pytest.raises(EnvironmentProblem, match="a newer torchstone"):
            Store.open(address, readonly=readonly)


def test_a_store_that_was_deleted_does_not_swallow_rows(tmp_path):
    with Store.open(tmp_path / "store.db") as store:
        run_id = started(store)
        (tmp_path / "store.db").unlink()
        with pytest.raises(TryAgain, match="removed or replaced"):
            store.log_rows(run_id, [MetricRow("x", 1, 1.0)])


def test_a_busy_store_says_so_after_its_patience(tmp_path):
    with Store.open(tmp_path / "store.db", patience_s=0.05) as store:
        run_id = started(store)
        other = sqlite3.connect(store.address, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TryAgain, match=r"busy for 0\.05 s"):
            store.log_rows(run_id, [MetricRow("x", 1, 1.0)])
        other.execute("ROLLBACK")
        other.close()
        store.log_rows(run_id, [MetricRow("x", 1, 1.0)])


def test_a_transaction_that_met_a_busy_file_is_repeated_as_a_whole(tmp_path):
    store = Store.open(tmp_path / "store.db")
    run_id = started(store)
    attempts = []

    def work(connection):
        attempts.append(connection.execute(text("SELECT count(*) FROM events")).scalar_one())
        connection.execute(insert(schema.events), {"run_id": run_id, "at": 0.0, "kind": "x", "data": "{}"})
        if len(attempts) < 3:  # as while another process recovers the file; SQLite does not wait then
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("database is locked"))

    store.database.write(work, about=run_id)
    assert attempts == [0, 0, 0]
    assert len(store.events(run_id)) == 1
    store.close()


def test_where_the_store_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    assert default_store(tmp_path / "runs" / "a") == str(tmp_path / "runs" / "store.db")
    assert Path(default_store()) == Path("runs/store.db")
    monkeypatch.setenv("TORCHSTONE_STORE", f"sqlite:///{tmp_path}/x.db")
    with Store.open() as store:
        assert store.address == str(tmp_path / "x.db")
    with pytest.raises(UsageError, match="mysql address"):
        Store.open("mysql://host/db")
