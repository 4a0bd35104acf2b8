"""Many processes, one store: no row lost or doubled, nobody told "locked", and a kill breaks nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
from tracking.postgres import KINDS, new_address

from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store
from torchstone.tracking.writer import MetricWriter

WRITERS, ROWS, BATCH = 6, 500, 25
fork = multiprocessing.get_context("fork")


def write_rows(address: str, number: int, gate) -> None:
    gate.wait()
    with Store.open(address) as store:
        _write_rows(store, number)


def _write_rows(store: Store, number: int) -> None:
    run_id = f"run-{number}"
    store.start_run(run_id, name="n", kind="train", run_dir="x")
    for first in range(0, ROWS, BATCH):
        steps = range(first, first + BATCH)
        store.log_rows(run_id, [MetricRow("x", step, step * (number + 1.0)) for step in steps])
        # Everybody also writes the same rows of one shared run.
        store.log_rows("shared", [MetricRow("x", step, float(step)) for step in steps])
    store.finish_run(run_id, "completed")


def expect_every_row_once(address: str) -> None:
    with Store.open(address, readonly=True) as store:
        for number in range(WRITERS):
            rows = store.metrics(f"run-{number}", "x")
            assert [(row.step, row.value) for row in rows] == [
                (step, step * (number + 1.0)) for step in range(ROWS)
            ]
        assert [(row.step, row.value) for row in store.metrics("shared")] == [
            (step, step) for step in range(ROWS)
        ]
        assert store.last_values(["shared"])["shared"]["x"].step == ROWS - 1


def run_all(target, arguments) -> None:
    children = [fork.Process(target=target, args=each) for each in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * len(children)


def test_processes_that_open_and_write_at_once_lose_nothing(address):
    gate = fork.Barrier(WRITERS)
    with Store.open(address) as store:
        store.start_run("shared", name="n", kind="train", run_dir="x")
    run_all(write_rows, [(address, number, gate) for number in range(WRITERS)])
    expect_every_row_once(address)


def open_new(address: str, number: int, gate) -> None:
    gate.wait()
    with Store.open(address) as store:
        store.start_run(f"run-{number}", name="n", kind="train", run_dir="x")


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_create_the_store_at_once_agree(request, kind, tmp_path):
    for attempt in range(5):
        address, gate = new_address(request, kind, tmp_path / str(attempt)), fork.Barrier(WRITERS)
        run_all(open_new, [(address, number, gate) for number in range(WRITERS)])
        with Store.open(address, readonly=True) as store:
            assert len(store.runs()) == WRITERS


def test_a_store_opened_before_the_fork_works_in_every_child(address):
    with Store.open(address) as store:
        store.start_run("shared", name="n", kind="train", run_dir="x")
        run_all(_write_rows, [(store, number) for number in range(WRITERS)])
        store.log_rows("shared", [MetricRow("x", 0, 0.0)])
    expect_every_row_once(address)


def use_another_connection(store: Store, parents: object) -> None:
    assert raw_connection(store) is not parents
    assert raw_connection(store) is raw_connection(store)


def raw_connection(store: Store) -> object:
    return store.database.read(lambda connection: connection.connection.dbapi_connection)


def test_a_child_never_touches_its_parents_connection(store):
    # SQLite forbids it: locks belong to a process, and closing one file would drop them.
    mine = raw_connection(store)
    run_all(use_another_connection, [(store, mine)])
    assert raw_connection(store) is mine


def log_until_killed(store: Store, flushed) -> None:
    writer = MetricWriter(store, "a")
    for step in range(1, 301):
        writer.log(step, {"x": float(step), "y": -float(step)})
    assert writer.flush(30.0)
    flushed.set()
    for step in range(301, 10**9):
        writer.log(step, {"x": float(step), "y": -float(step)})


def test_a_killed_writer_loses_at_most_what_was_not_flushed(address):
    flushed = fork.Event()
    with Store.open(address) as store:
        store.start_run("a", name="n", kind="train", run_dir="x")
        child = fork.Process(target=log_until_killed, args=(store, flushed))
        child.start()
        assert flushed.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    with Store.open(address) as store:
        x, y = store.metrics("a", "x"), store.metrics("a", "y")
        assert [row.step for row in x] == list(range(1, len(x) + 1))
        assert len(x) >= 300
        assert len(x) - len(y) in (0, 1)
        assert all(row.value == row.step for row in x)
        store.log_rows("a", [MetricRow("x", 1, 1.0)])


def use_inherited_writer(writer: MetricWriter) -> None:
    writer.log(2, {"x": 2.0})
    before = time.monotonic()
    assert not writer.flush(timeout_s=40.0)
    assert time.monotonic() - before < 20  # there is nobody to wait for
    writer.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_neither_writes_nor_disturbs_its_parents_writer(tmp_path):
    with Store.open(tmp_path / "store.db") as store:
        store.start_run("a", name="n", kind="train", run_dir="x")
        with MetricWriter(store, "a") as writer:
            writer.log(1, {"x": 1.0})
            run_all(use_inherited_writer, [(writer,)])
            writer.log(3, {"x": 3.0})
        assert [row.step for row in store.metrics("a")] == [1, 3]
