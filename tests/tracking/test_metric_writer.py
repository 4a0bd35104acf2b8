"""Laws of the metric writer: rows arrive exactly once, no failure reaches the step, losses are told."""

from __future__ import annotations

import logging
import math
import multiprocessing
import resource
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.tracking import spill
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store
from torchstone.tracking.writer import MetricWriter, WriterReport


@pytest.fixture
def store(tmp_path):
    (tmp_path / "runs").mkdir()
    with Store.open(tmp_path / "runs" / "store.db", patience_s=0.05) as store:
        store.start_run("a", name="n", kind="train", run_dir="x")
        yield store


@pytest.fixture
def spilled(tmp_path) -> Path:
    return tmp_path / "metrics.spill.jsonl"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("store") / "store.db") as store:
        yield store


def steps(store: Store, key: str = "x") -> list[int]:
    return [row.step for row in store.metrics("a", key)]


operation = st.one_of(
    st.tuples(st.just("log"), st.integers(0, 9), st.dictionaries(st.sampled_from("xyz"), st.floats())),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("resume"), st.integers(0, 9), st.none()),
    st.tuples(st.just("outage"), st.integers(0, 9), st.dictionaries(st.sampled_from("xyz"), st.floats())),
)
_numbers = iter(range(10**9))


@settings(max_examples=40, deadline=None)
@given(st.lists(operation, max_size=10))
def test_any_course_of_a_run_equals_a_dict(shared, tmp_path_factory, operations):
    run_id = f"run-{next(_numbers)}"
    shared.start_run(run_id, name="n", kind="train", run_dir="x")
    aside = tmp_path_factory.mktemp("run") / spill.SPILL_NAME
    model: dict[tuple[str, int], float] = {}
    writer = MetricWriter(shared, run_id, spill=aside)
    for name, step, values in operations:
        if name == "log":
            writer.log(step, values)
            model |= {(key, step): value for key, value in values.items()}
        elif name == "flush":
            assert writer.flush(30.0)
        elif name == "resume":
            assert writer.close().complete
            writer = MetricWriter(shared, run_id, spill=aside, resume_after=step)
            model = {at: value for at, value in model.items() if at[1] <= step}
        else:  # rows that an outage left in the spill file come back when the run is opened again
            assert writer.close().complete
            spill.append(aside, [MetricRow(key, step, value, 1.0) for key, value in values.items()])
            writer = MetricWriter(shared, run_id, spill=aside)
            assert not aside.exists()
            model |= {(key, step): value for key, value in values.items()}
    report = writer.close()
    assert report.complete, report
    found = {(row.key, row.step): repr(row.value + 0.0) for row in shared.metrics(run_id)}
    assert found == {at: repr(value + 0.0) for at, value in model.items()}


def test_rows_are_on_disk_soon_without_a_flush(store):
    with MetricWriter(store, "a") as writer:
        writer.log(1, {"x": 1.0})
        deadline = time.monotonic() + 10
        while not steps(store) and time.monotonic() < deadline:
            pass
        assert steps(store) == [1]


def test_close_drains_and_closing_twice_says_the_same(store):
    writer = MetricWriter(store, "a")
    for step in range(12_345):
        writer.log(step, {"x": 1.0})
    assert writer.close() == writer.close() == WriterReport(12_345, 0, 0, 0)
    assert len(steps(store)) == 12_345


def test_what_is_no_number_is_counted_and_harms_nobody(store):
    writer = MetricWriter(store, "a")
    writer.log(1, {"x": "abc", "y": None, "z": 1.0, "w": "2.5"})
    writer.log("first", {"x": 1.0})
    writer.log(2**70, {"x": 1.0})
    writer.log(2, {b"bytes": 1.0, "\ud800": 1.0, "z": math.nan})
    report = writer.close()
    assert [row.step for row in store.metrics("a", "z")] == [1, 2]
    assert store.metrics("a", "w")[0].value == 2.5
    assert report.rejected + report.written == 9
    assert report.rejected >= 5
    assert (report.lost, report.error) == (0, "")


def test_a_removed_store_stops_nothing_and_every_row_is_kept_aside(store, spilled):
    writer = MetricWriter(store, "a", spill=spilled)
    writer.log(1, {"x": 1.0})
    assert writer.flush()
    shutil.rmtree(Path(store.address).parent)
    for step in range(2, 12):
        writer.log(step, {"x": math.inf})
    assert writer.flush(2.0)
    assert len(spill.read(spilled)) == 10, "safe before the flush returns"
    report = writer.close()
    assert (report.written, report.spilled, report.lost) == (1, 10, 0)
    assert "removed" in report.error
    assert [(row.step, row.value) for row in spill.read(spilled)] == [
        (step, math.inf) for step in range(2, 12)
    ]


def test_without_any_place_left_rows_are_lost_and_told(store, spilled, caplog):
    writer = MetricWriter(store, "a", spill=spilled.parent / "gone" / "x.jsonl")
    shutil.rmtree(Path(store.address).parent)
    for step in range(7):
        writer.log(step, {"x": 1.0})
    with caplog.at_level(logging.WARNING):
        report = writer.close()
    assert (report.written, report.spilled, report.lost) == (0, 0, 7)
    assert "7 lost" in caplog.text


def test_a_locked_store_neither_slows_the_step_nor_loses_rows(store, spilled):
    other = sqlite3.connect(store.address, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = MetricWriter(store, "a", spill=spilled)
    before = time.monotonic()
    for step in range(2000):
        writer.log(step, {"x": 1.0})
    assert time.monotonic() - before < 10  # waiting for the lock would take 50 ms each, 100 s in all
    report = writer.close()
    assert (report.written, report.spilled, report.lost) == (0, 2000, 0)
    other.execute("ROLLBACK")
    other.close()
    with MetricWriter(store, "a", spill=spilled):
        assert steps(store) == list(range(2000))
    assert not spilled.exists()


def test_a_store_that_comes_back_gets_everything(store, spilled):
    other = sqlite3.connect(store.address, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = MetricWriter(store, "a", spill=spilled, max_rows=100)
    for step in range(60):  # more than half of the memory: they go to the spill file meanwhile
        writer.log(step, {"x": 1.0})
    deadline = time.monotonic() + 20
    while not spilled.exists() and time.monotonic() < deadline:
        pass
    assert spilled.exists()
    other.execute("ROLLBACK")
    other.close()
    writer.log(60, {"x": 1.0})
    assert writer.close().complete
    assert steps(store) == list(range(61))
    assert not spilled.exists()


def test_memory_is_bounded_and_what_did_not_fit_is_told(store):
    other = sqlite3.connect(store.address, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = MetricWriter(store, "a", max_rows=100, every_s=60.0)
    for step in range(150):
        writer.log(step, {"x": 1.0})
    other.execute("ROLLBACK")
    other.close()
    report = writer.close()
    assert (report.written, report.lost) == (100, 50)


def test_a_writer_stuck_in_the_store_is_not_waited_for(tmp_path, spilled):
    with Store.open(tmp_path / "store.db", patience_s=3.0) as store:
        store.start_run("a", name="n", kind="train", run_dir="x")
        other = sqlite3.connect(store.address, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writer = MetricWriter(store, "a", spill=spilled)
        writer.log(1, {"x": 1.0})
        report = writer.close(timeout_s=0.3)
        assert (report.spilled, report.lost) == (1, 0)
        assert "did not answer" in report.error
        other.execute("ROLLBACK")
        other.close()
        writer._thread.join()
        assert steps(store) == [1]
        MetricWriter(store, "a", spill=spilled).close()
        assert steps(store) == [1]


def fill_the_disk(store: Store, spilled: Path, answer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # no file can grow beyond this
    writer = MetricWriter(store, "a", spill=spilled)
    for step in range(4000):
        writer.log(step, {"a rather long name of a metric": float(step)})
        if step == 100:
            writer.flush()
    answer.put(writer.close())


def test_a_full_disk_loses_only_what_it_tells(store, spilled):
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    child = fork.Process(target=fill_the_disk, args=(store, spilled, answer))
    child.start()
    report = answer.get()
    child.join()
    assert child.exitcode == 0
    assert report.written + report.spilled + report.lost == 4000
    assert report.error
    stored = {row.step for row in store.metrics("a")}
    assert len(stored) == report.written >= 101


def test_a_half_written_spill_line_is_left_out(store, spilled):
    spill.append(spilled, [MetricRow("x", 1, math.nan, 1.0)])
    with spilled.open("a") as file:
        file.write('["x", 2, 1.')
    assert spill.absorb(store, "a", spilled) == 1
    assert steps(store) == [1]
