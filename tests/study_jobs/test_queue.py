"""Laws of the queue: who goes first, who waits for whom, what is tried again, and what an end is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from study_jobs.conftest import work

from torchstone._errors import UsageError
from torchstone.study.job_queue import JobManager
from torchstone.study.kinds.registry import JOB_KINDS
from torchstone.tracking.job_table import DONE
from torchstone.tracking.store import Store

Begun = Callable[[], list[str]]


def test_priority_goes_before_age_and_need_before_both(queue: JobManager, begun: Begun) -> None:
    low = queue.submit_job("tiny", {"name": "low"}, priority=1)
    queue.submit_job("tiny", {"name": "middle"})
    queue.submit_job("tiny", {"name": "needing"}, priority=10, needs=[low])
    queue.submit_job("tiny", {"name": "high"}, priority=9)
    queue.submit_job("tiny", {"name": "later"}, priority=9)
    assert work(queue).exit_code == 0
    assert begun() == ["high", "later", "middle", "low", "needing"]
    job = queue.get_job(low)
    assert (job.status, job.tries, job.error) == ("done", 1, None)
    assert job.created_at and job.started_at and job.completed_at
    assert queue.get_queue_stats() == {"waiting": 0, "running": 0, "done": 5, "failed": 0, "cancelled": 0}


def test_a_failure_is_tried_again_as_often_as_was_said(queue: JobManager, begun: Begun) -> None:
    recovers = queue.submit_job("tiny", {"name": "recovers", "fails": 3}, max_retries=3)
    fails = queue.submit_job("tiny", {"name": "fails", "fails": 9}, max_retries=1)
    hopeless = queue.submit_job("tiny", {"name": "hopeless", "fails": 9, "usage": True})
    behind = queue.submit_job("tiny", {"name": "behind"}, needs=[fails])
    further = queue.submit_job("tiny", {"name": "further"}, needs=[behind])
    assert work(queue).exit_code == 0, "it does not wait for jobs that nobody can begin"
    assert sorted(begun()) == ["fails"] * 2 + ["hopeless"] + ["recovers"] * 4
    states = {each.job_id: each for each in queue.list_jobs()}
    assert states[recovers].status == "done"
    assert (states[fails].status, states[fails].tries) == ("failed", 2)
    assert states[hopeless].error is not None and states[hopeless].error["error"] == "UsageError"
    assert queue.why_waiting(states[behind]) == f"job {fails} has failed"
    assert queue.why_waiting(states[further]) == f"job {behind} is waiting"
    lines = [each.message for each in queue.get_job_logs(recovers)]
    assert sum("begins" in each for each in lines) == 4 and lines[-1].startswith("done")
    assert queue.retry_job(fails) and not queue.retry_job(recovers)
    assert queue.get_job(fails).tries == 0


def test_what_can_still_be_done_is_known_however_jobs_need_each_other(queue: JobManager) -> None:
    first = newest = queue.submit_job("tiny", {})
    for _ in range(40):  # two ways to each of those before: more ways than one can go
        newest = queue.submit_job("tiny", {}, needs={newest, max(first, newest - 1)})
    assert len(queue.pending()) == newest
    queue.cancel_job(first)
    assert queue.pending() == []
    assert queue.why_waiting(queue.get_job(first + 1)) == f"job {first} is cancelled"


def test_tries_wait_longer_each_time(queue: JobManager) -> None:
    job = queue.submit_job("tiny", {"name": "fails", "fails": 9}, max_retries=1)
    assert work(queue, max_jobs=1, pauses_s=(600.0,)).exit_code == 0
    found = queue.get_job(job)
    assert found.status == "waiting" and found.not_before is not None
    assert queue.why_waiting(found) == f"until {found.not_before}"
    assert queue.claim_job("me") is None


def test_a_running_job_is_stopped_when_it_is_cancelled(queue: JobManager, tmp_path: Path) -> None:
    store = queue.store
    running = queue.submit_job("tiny", {"name": "endless", "until": str(tmp_path / "never")})
    waiting = queue.submit_job("tiny", {"name": "waiting"})
    dead = queue.submit_job("tiny", {"name": "dead"}, priority=9)
    assert queue.claim_job("elsewhere:1:0.0", seconds=0.0) is not None
    assert queue.cancel_job(waiting) and queue.cancel_job(dead)
    assert queue.get_job(dead).stopping and queue.get_job(waiting).status == "cancelled"

    def cancel_when_it_runs() -> None:
        with Store.open(store.address) as own:
            mine = JobManager(own)
            while mine.get_job(running).status != "running":
                time.sleep(0.01)
            mine.cancel_job(running)

    canceller = threading.Thread(target=cancel_when_it_runs)
    canceller.start()
    assert work(queue).exit_code == 0
    canceller.join()
    assert {each.status for each in queue.list_jobs()} == {"cancelled"}
    assert not queue.cancel_job(running), "it is over"


def test_who_lost_a_job_says_nothing_about_it(queue: JobManager) -> None:
    job = queue.submit_job("tiny", {"name": "a"})
    lost = queue.claim_job("elsewhere:1:0.0", seconds=0.0)
    held = queue.claim_job("elsewhere:2:0.0")
    assert lost is not None and held is not None and held.token > lost.token
    assert not queue.update_job_status(lost, "failed", "too late")
    assert queue.get_job(job).status == "running"
    assert queue.update_job_status(held, DONE) and queue.get_job(job).status == "done"


@pytest.mark.parametrize(
    ("kind", "config", "more", "problem"),
    [
        ("tinny", {}, {}, "did you mean 'tiny'"),
        ("tiny", {"nmae": "x"}, {}, "did you mean 'name'"),
        ("tiny", {}, {"priority": 11}, "priority 11"),
        ("tiny", {}, {"max_retries": -1}, "max_retries"),
        ("tiny", {}, {"needs": [7]}, "there is no job '7'"),
        ("training", {"data": "builtin:stdlib"}, {}, "which model"),
        ("training", {"target": "zoo:gpt-nano", "set": {"train.epohcs": 2}}, {}, "train.epochs"),
        ("evaluation", {}, {}, "target"),
        ("export", {"target": "zoo:gpt-nano", "formats": "onx"}, {}, "onnx"),
        ("retraining", {"model": "notes"}, {}, "there is no model 'notes'"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    queue: JobManager, kind: str, config: dict, more: dict, problem: str
) -> None:
    with pytest.raises(UsageError) as refused:
        queue.submit_job(kind, config, **more)
    assert problem in str(refused.value)
    assert queue.list_jobs() == []


def test_every_kind_says_what_it_knows() -> None:
    for each in JOB_KINDS:
        assert each.help and each.keys and each.name == JOB_KINDS.get(each.name).name


def test_a_store_from_before_the_queue_keeps_its_cells(tmp_path: Path) -> None:
    from sqlalchemy import text

    from torchstone.tracking import migrations
    from torchstone.tracking.job_table import JobTable

    before = migrations.MIGRATIONS[: migrations.MIGRATIONS.index(migrations.queue_of_jobs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", before)
        with Store.open(tmp_path / "store.db") as old:
            JobTable(old, "cells").add({"a": {"number": 1}})
            for column in ("priority", "needs", "stop", "created", "began", "ended"):
                statement = text(f"ALTER TABLE jobs DROP COLUMN {column}")
                old.database.write(lambda found, statement=statement: found.execute(statement), about="jobs")
    with Store.open(tmp_path / "store.db") as store:
        (job,) = JobTable(store, "cells").jobs()
        assert (job.order, job.priority, job.needs, job.stop) == ({"number": 1}, 0, (), False)
        assert JobManager(store).submit_job("tiny", {}) == 1
