"""Workers and jobs are killed or frozen: every job ends exactly once, by the word of its newest holder.

The campaign: `pytest -m campaign tests/study_jobs`, or `make campaign` with everything else.

TORCHSTONE_CAMPAIGN_KILLS=500      how many, at least
TORCHSTONE_CAMPAIGN_SEED=0         of the draws; share n of 100 kills uses seed + n
TORCHSTONE_CAMPAIGN_REPORT=DIR     DIR/jobs/campaign.json and .md are written (default build/campaign)
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from faults.rain import REPORT, Tally
from study_jobs.conftest import work

from torchstone.study.job_queue import JobManager
from torchstone.tracking.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found and forked as on Linux")
fork = multiprocessing.get_context("fork")
LEASE_S = 0.6
JOBS = 10
KILLS_OF_ONE_QUEUE = 10
WHOM = ("a worker", "a job", "a worker and its jobs", "both workers")
FROZEN = "STOP of a worker, longer than its lease"
ENDS = """
CREATE TABLE ends (job_id TEXT, status TEXT);
CREATE TRIGGER first_end AFTER UPDATE ON jobs WHEN NEW.status IN ('done', 'failed', 'cancelled')
BEGIN INSERT INTO ends VALUES (NEW.job_id, NEW.status); END;
"""
"""Every write about a job that is over, also a second one, leaves a row."""


def worker(address: str) -> None:
    with Store.open(address) as store:
        os._exit(work(JobManager(store), lease_s=LEASE_S, poll_interval=0.3).exit_code)


class Place:
    """A queue of small jobs, and two workers on it."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.store = Store.open(folder / "store.db")
        self.queue = JobManager(self.store)
        for statement in ENDS.strip().split(";\n"):
            self.store.database.write(lambda found, each=statement: found.exec_driver_sql(each), about="ends")
        for number in range(JOBS):
            config = {
                "name": f"j{number}",
                "work_s": rng.uniform(0.0, 0.15),
                "fails": rng.choice([0, 0, 0, 1]),
            }
            needs = [rng.randint(1, number)] if number and rng.random() < 0.3 else []
            # Deaths count as tries where they were the job's own, so that none may run out of them.
            self.queue.submit_job("tiny", config, rng.randint(1, 10), max_retries=1000, needs=needs)
        self.workers = [self.new_worker() for _ in range(2)]

    def new_worker(self) -> multiprocessing.context.ForkProcess:
        process = fork.Process(target=worker, args=(self.store.address,), daemon=False)
        process.start()
        return process

    def jobs_of(self, process: multiprocessing.context.ForkProcess) -> list[int]:
        """Process numbers, by the kernel's own list: a look through all processes costs more than a kill."""
        try:
            return [*map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
        except OSError:
            return []

    def strike(self, whom: str, rng: random.Random) -> bool:
        """Whether there was somebody to strike."""
        one = rng.choice(self.workers)
        if whom == FROZEN:
            return freeze(one.pid, 2.5 * LEASE_S)
        jobs, both = self.jobs_of(one), [each.pid for each in self.workers]
        victims = {"a job": jobs[:1], "both workers": both, "a worker": [one.pid]}.get(whom, [one.pid, *jobs])
        return sum(kill(each) for each in victims) > 0

    def replace_the_dead(self) -> bool:
        """Workers that were killed are followed by others; whether any is still at work."""
        for place, each in enumerate(self.workers):
            if each.exitcode == -signal.SIGKILL:
                self.workers[place] = self.new_worker()
        return any(each.exitcode is None for each in self.workers)

    def close(self) -> None:
        for each in self.workers:
            each.join()
        self.store.close()


def kill(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, signal.SIGKILL)
        os.waitid(os.P_PID, pid or 0, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # a job, which is a worker's child
        return True
    except ProcessLookupError:
        return False
    return True


def freeze(pid: int | None, seconds: float) -> bool:
    try:
        os.kill(pid or 0, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid or 0, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def broken_laws(place: Place) -> list[str]:
    jobs, broken = place.queue.table.jobs(), []
    query = "SELECT job_id, status FROM ends"
    ends = Counter(place.store.database.read(lambda found: found.exec_driver_sql(query).scalars().all()))
    for job in jobs:
        if job.status != "done" or ends[job.job_id] != 1:
            broken.append(f"job {job.job_id} is {job.status} and ended {ends[job.job_id]} times")
        elif (job.result or {})["result"]["token"] != job.token:
            broken.append(f"the result of job {job.job_id} is not that of its newest holder")
    order = {job.job_id: (job.began, job.ended) for job in jobs}
    for job in jobs:
        for needed in job.needs:
            if (job.began or 0.0) < (order[needed][1] or 0.0):
                broken.append(f"job {job.job_id} began before {needed} was done")
    return broken


def rain(base: Path, *, kills: int, seed: int) -> Tally:
    """Strike until so many kills have struck, beginning a new queue whenever one got through."""
    tally, rng, began = Tally(), random.Random(seed), os.times()
    warm(base / "warm")
    while tally.kills < kills:
        folder = base / f"queue-{tally.runs}"
        folder.mkdir(parents=True)
        tally.runs += 1
        place, struck = Place(folder, rng), 0
        while place.replace_the_dead():
            time.sleep(rng.uniform(0.0, 0.25))
            if struck < KILLS_OF_ONE_QUEUE and tally.kills < kills:
                whom = rng.choice([*WHOM, *WHOM, FROZEN])
                found = place.strike(whom, rng)
                struck += found
                kind = whom if whom == FROZEN else f"KILL of {whom}"
                tally.add(kind, "found nobody" if not found else "went on" if whom == FROZEN else "killed")
        tally.broken += [f"{each}; seed {seed}, in {folder}" for each in broken_laws(place)]
        place.close()
    now = os.times()
    tally.cpu_s = sum(now[:4]) - sum(began[:4])
    return tally


def warm(folder: Path) -> None:
    """What a worker loads and compiles is done here once, for all that are forked."""
    with Store.open(folder / "store.db") as store:
        queue = JobManager(store)
        queue.submit_job("tiny", {"name": "warm"})
        work(queue)
    gc.collect()
    gc.freeze()


def test_forty_kills(tmp_path: Path) -> None:
    tally = rain(tmp_path, kills=40, seed=0)
    assert (tally.broken, tally.kills) == ([], 40)


KILLS = int(os.environ.get("TORCHSTONE_CAMPAIGN_KILLS", "500"))
SEED = int(os.environ.get("TORCHSTONE_CAMPAIGN_SEED", "0"))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(SEED, SEED + -(-KILLS // 100)))
def test_a_hundred_kills(tmp_path: Path, seed: int) -> None:
    tally = rain(tmp_path, kills=min(100, KILLS), seed=seed)
    tally.keep_part(REPORT / "jobs", seed)
    assert tally.broken == []
