"""Laws of the jobs' table: one holder at a time, higher numbers, and only the newest holder's word counts."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from torchstone.tracking.job_table import (
    DONE,
    FAILED,
    LEASED,
    OVER,
    WAITING,
    JobTable,
    Lease,
    is_dead,
    queues,
    this_process,
)
from torchstone.tracking.store import Store

fork = multiprocessing.get_context("fork")
LEASE_S = 10.0


class Workers(RuleBasedStateMachine):
    """Workers claim, renew, finish, forget and go on, while the clock runs and some of them die."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = Store.open(Path(self.folder.name) / "store.db")
        self.now = 1000.0
        self.table = JobTable(self.store, "q", clock=lambda: self.now)
        self.table.add({name: {"number": number} for number, name in enumerate("abc")})
        self.leases: list[Lease] = []
        self.tokens: dict[str, int] = dict.fromkeys("abc", 0)
        self.dead: set[str] = set()
        self.said: Counter[str] = Counter()
        """Job -> how often somebody's word on its end was taken."""
        self.number = 0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule()
    def claim(self) -> None:
        before = {each.job_id: each for each in self.table.jobs()}
        self.number += 1
        lease = self.table.claim(f"w{self.number}", seconds=LEASE_S, is_dead=self.dead.__contains__)
        free = [
            each
            for each in before.values()
            if (each.status == WAITING and each.not_before <= self.now)
            or (each.status == LEASED and (each.leased_until <= self.now or each.owner in self.dead))
        ]
        assert (lease is None) == (not free)
        if lease is not None:
            assert lease.job_id == free[0].job_id, "the first in order"
            assert lease.token > self.tokens[lease.job_id]
            was, tries = before[lease.job_id], self.table.job(lease.job_id).tries
            assert tries == was.tries + (was.status == WAITING), (
                "the death of a worker is not the job's fault"
            )
            self.tokens[lease.job_id] = lease.token
            self.leases.append(lease)

    def held(self, lease: Lease) -> bool:
        return self.table.job(lease.job_id).status == LEASED and self.tokens[lease.job_id] == lease.token

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), status=st.sampled_from([DONE, FAILED]))
    def finish(self, data: st.DataObject, status: str) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.held(lease)
        assert self.table.finish(lease, status, {"token": lease.token}, spent_s=1.0) == held
        if held:
            self.said[lease.job_id] += 1
            job = self.table.job(lease.job_id)
            assert (job.status, job.result, job.owner) == (status, {"token": lease.token}, None)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 5.0]), counts=st.booleans())
    def give_back(self, data: st.DataObject, wait_s: float, counts: bool) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held, before = self.held(lease), self.table.job(lease.job_id).tries
        assert self.table.give_back(lease, wait_s=wait_s, counts=counts) == held
        assert self.table.job(lease.job_id).tries == before - (held and not counts)

    @precondition(lambda self: self.leases)
    @rule()
    def renew(self) -> None:
        held = [each for each in self.leases if self.held(each)]
        lost = self.table.renew(self.leases, seconds=LEASE_S)
        assert [each for each in self.leases if each not in lost] == held
        assert all(self.table.job(each.job_id).leased_until == self.now + LEASE_S for each in held)

    @rule(seconds=st.sampled_from([-3.0, 1.0, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.number)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        self.dead.add(f"w{data.draw(st.integers(1, self.number))}")

    @rule()
    def enter_again(self) -> None:
        assert self.table.add({"a": {"number": 99}}) == 0

    @invariant()
    def an_end_is_said_once(self) -> None:
        for job in self.table.jobs():
            assert self.said[job.job_id] == (job.status in OVER)
            assert job.order == {"number": "abc".index(job.job_id)}


Workers.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWorkers = Workers.TestCase


def take_all(address: str, taken: list[str]) -> None:
    with Store.open(address) as store:
        table = JobTable(store, "q")
        while (lease := table.claim(this_process(), seconds=60)) is not None:
            taken.append(lease.job_id)
            assert table.finish(lease, DONE)


def test_processes_that_claim_at_once_never_share_a_job(address: str) -> None:
    names = [f"job-{number}" for number in range(60)]
    with Store.open(address) as store:
        JobTable(store, "q").add({name: {} for name in names})
    with multiprocessing.Manager() as manager:
        taken = manager.list()
        workers = [fork.Process(target=take_all, args=(address, taken)) for _ in range(4)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        assert [each.exitcode for each in workers] == [0] * 4
        assert sorted(taken) == sorted(names)


def test_a_process_that_is_over_is_known_to_be_dead(tmp_path: Path) -> None:
    reader, writer = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: writer.send(this_process()))
    child.start()
    name = reader.recv()
    child.join()
    assert is_dead(name) and not is_dead(this_process())
    assert not is_dead("another-machine:1:0.00"), "nothing is known of it"
    host, pid, _ = this_process().rsplit(":", 2)
    assert is_dead(f"{host}:{pid}:1.00"), "the number is another process's by now"


def test_failed_jobs_wait_again_when_asked(store: Store) -> None:
    table = JobTable(store, "q")
    table.add({"a": {}, "b": {}})
    lease = table.claim("w", seconds=1)
    assert lease is not None
    table.finish(lease, FAILED, {"why": "x"}, spent_s=2.0)
    assert table.cancel("b") == WAITING
    assert table.claim("w", seconds=1) is None
    assert table.again(["a", "b"]) == 2
    assert [(each.status, each.tries, each.result) for each in table.jobs()] == [(WAITING, 0, None)] * 2
    assert table.standing() == {"a": (WAITING, 2.0), "b": (WAITING, 0.0)}
    assert queues(store) == ["q"]


def test_a_run_is_taken_over_whole(store: Store, tmp_path: Path) -> None:
    from torchstone.tracking.rows import MetricRow

    with Store.open(tmp_path / "other.db") as other:
        other.start_run("r", name="n", kind="train", run_dir="x", config={"a": 1})
        other.log_rows("r", [MetricRow("loss", step, 1.0 / step) for step in (1, 2)])
        other.add_event("r", "checkpoint", {"step": 2})
        other.finish_run("r", "completed", {"steps": 2})
        for _ in range(2):  # again: nothing is doubled
            store.adopt(other, "r")
        assert store.run("r") == other.run("r")
        assert store.metrics("r") == other.metrics("r")
        assert store.last_values(["r"]) == other.last_values(["r"])
        assert store.events("r") == other.events("r")
