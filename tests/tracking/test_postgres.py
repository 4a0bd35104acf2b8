"""What a server adds to the laws of the store: lost connections, many machines, others in its database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import event, text
from tracking.postgres import Postgres

from torchstone._errors import EnvironmentProblem, TryAgain, UsageError
from torchstone.study.executor import refuse_to_send_secrets
from torchstone.tracking.job_table import JobTable
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

ENDS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'torchstone'"


@pytest.fixture
def store(postgres: Postgres) -> Iterator[Store]:
    with Store.open(postgres.new_schema(), patience_s=20.0) as store:
        store.start_run("a", name="n", kind="train", run_dir="x")
        yield store


def test_a_lost_connection_is_made_again_and_the_write_repeated(postgres: Postgres, store: Store) -> None:
    postgres.execute(ENDS)
    store.log_rows("a", [MetricRow("x", 1, 1.0)])
    tries = []

    def work(connection):
        tries.append(connection.execute(text("SELECT count(*) FROM events")).scalar_one())
        if len(tries) == 1:
            postgres.execute(ENDS)
        insert = text("INSERT INTO events (run_id, at, kind, data) VALUES ('a', 0, 'x', '{}')")
        connection.execute(insert)

    store.database.write(work, about="a")
    assert tries == [0, 0]
    assert len(store.events("a")) == 1
    assert [row.step for row in store.metrics("a")] == [1]


def test_a_server_that_is_restarted_is_waited_for(postgres: Postgres, store: Store) -> None:
    postgres.stop()
    postgres.start()
    store.log_rows("a", [MetricRow("x", 1, 1.0)])
    assert len(store.metrics("a")) == 1


def test_a_commit_that_nobody_confirmed_is_not_repeated(postgres: Postgres, store: Store) -> None:
    # Whether it is kept cannot be known; a repeated event would be there twice.
    engine = store.database._engine
    event.listen(engine, "commit", lambda connection: postgres.execute(ENDS), once=True)
    with pytest.raises(TryAgain, match="did not say whether it kept"):
        store.add_event("a", "x")
    store.add_event("a", "y")
    assert [each.kind for each in store.events("a")] in (["x", "y"], ["y"])


def test_runs_do_not_wait_for_each_other_and_one_run_says_what_it_waits_for(store: Store) -> None:
    log: Callable[[str], None] = lambda run_id: other.log_rows(run_id, [MetricRow("x", 1, 1.0)])  # noqa: E731
    with Store.open(store.address, patience_s=0.2) as other:
        other.start_run("b", name="n", kind="train", run_dir="x")

        def work(connection):
            log("b")
            with pytest.raises(TryAgain, match=r"busy for 0\.2 s"):
                log("a")

        store.database.write(work, about="a")
        log("a")
    assert [len(store.metrics(run_id)) for run_id in "ab"] == [1, 1]


def test_leases_end_by_the_clock_of_the_server(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = JobTable(store, "q")
    table.add({"a": {}})
    lease = table.claim("elsewhere:1:0", seconds=60)
    assert lease is not None and lease.token == 1
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)  # this machine's clock is an hour ahead
    assert table.claim("here:1:0", seconds=60) is None
    assert table.give_back(lease)
    assert table.claim("here:1:0", seconds=60) is not None


def test_a_place_without_a_store_is_not_read_nor_changed(postgres: Postgres) -> None:
    address = postgres.new_schema()
    schema = address.rpartition("%3D")[2]
    with pytest.raises(UsageError, match="no store here"):
        Store.open(address, readonly=True)
    query = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'"
    assert postgres.execute(query) == []


def test_a_reader_cannot_write(store: Store) -> None:
    with Store.open(store.address, readonly=True) as reader:
        assert reader.run("a").run_id == "a"
        with pytest.raises(UsageError, match="reading only"):
            reader.add_event("a", "x")
        with pytest.raises(Exception, match="read-only transaction"):
            reader.database.read(lambda connection: connection.execute(text("DELETE FROM runs")))


def test_tables_of_others_are_left_alone(postgres: Postgres) -> None:
    address = postgres.new_schema()
    schema = address.rpartition("%3D")[2]
    postgres.execute(f"CREATE TABLE {schema}.photos (name text)")
    Store.open(address).close()  # beside ours, others are no trouble
    taken = postgres.new_schema()
    postgres.execute(f"CREATE TABLE {taken.rpartition('%3D')[2]}.jobs (name text)")
    with pytest.raises(UsageError, match=r"not a torchstone store[\s\S]*jobs[\s\S]*search_path"):
        Store.open(taken)


def test_what_is_refused_says_why_and_no_password(postgres: Postgres) -> None:
    nobody = f"postgresql://torchstone:secret@127.0.0.1:{postgres.port}"
    with pytest.raises(EnvironmentProblem, match='database "absent" does not exist') as refused:
        Store.open(f"{nobody}/absent")
    with pytest.raises(EnvironmentProblem, match="schema"):
        Store.open(postgres.address("absent"))
    with pytest.raises(TryAgain, match="cannot be reached") as unreachable:
        Store.open("postgresql://torchstone:secret@127.0.0.1:1/postgres")
    with pytest.raises(UsageError, match="no address of a PostgreSQL"):
        Store.open("postgresql://torchstone@host:port/x")
    for each in (refused, unreachable):
        assert "secret" not in str(each.value)
        assert "torchstone:***@" in str(each.value)


def test_an_address_with_a_password_is_not_sent_to_other_machines(postgres: Postgres) -> None:
    address = postgres.new_schema()
    for secret in (address.replace("torchstone@", "torchstone:secret@"), f"{address}&password=secret"):
        with Store.open(secret) as store:
            assert "secret" not in store.where
            refuse_to_send_secrets(store, "local")
            with pytest.raises(UsageError, match=r"holds a password[\s\S]*pgpass") as refused:
                refuse_to_send_secrets(store, "slurm")
            assert "secret" not in str(refused.value)
    with Store.open(address) as store:
        refuse_to_send_secrets(store, "ray")
