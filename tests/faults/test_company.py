"""Two processes and one run; and a clock that somebody sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from faults.job import Job
from faults.laws import broken_promises, differences, facts


def test_the_second_of_two_is_refused_by_name(new_job: Callable[..., Job], reference: dict[str, Any]) -> None:
    job = new_job()
    assert job.train({"place": "forward", "count": 14, "what": "kill"})["code"] == -9
    first = job.train({"place": "forward", "count": 5, "what": "stop"})
    assert first["stopped"]
    second = job.train()
    assert second["code"] == 75
    assert f"process {first['pid']} " in job.said()
    assert job.server.ask({"continue": first["pid"]})["code"] == 0, job.said()
    assert differences(reference, facts(job.run_dir)) == []


@pytest.mark.parametrize("begun", [False, True], ids=["new", "resumed"])
def test_overtaken_before_it_held_the_run(
    new_job: Callable[..., Job], reference: dict[str, Any], begun: bool
) -> None:
    """The first looked at the folder when nobody was there; meanwhile the second trains to the end.

    Where a run had begun, it finds it finished; where none had, somebody else's run stands in its place:
    it is told to come back with `--resume auto`.
    """
    job = new_job()
    if begun:
        assert job.train({"place": "forward", "count": 14, "what": "kill"})["code"] == -9
    first = job.train({"place": "build", "count": 1, "what": "stop"})
    assert first["stopped"]
    assert job.train()["code"] == 0, job.said()
    told = job.server.ask({"continue": first["pid"]})
    assert told["code"] == (0 if begun else 75), job.said()
    assert broken_promises(job.run_dir) == []
    assert differences(reference, facts(job.run_dir)) == []


@pytest.mark.parametrize("jump_s", [-400 * 86400.0, -3600.0, 3600.0, 400 * 86400.0])
@pytest.mark.parametrize("session", ["first", "resumed"])
def test_a_clock_that_jumps(
    new_job: Callable[..., Job], reference: dict[str, Any], session: str, jump_s: float
) -> None:
    job = new_job("train.max_time_s=600")
    if session == "resumed":  # before the start of its own run, or long after it
        assert job.train({"place": "forward", "count": 14, "what": "kill"})["code"] == -9
    told = job.train({"place": "forward", "count": 2, "what": "clock", "jump_s": jump_s})
    assert told["code"] == 0, job.said()
    assert differences(reference, facts(job.run_dir)) == []
    report = json.loads((job.run_dir / "report.json").read_text(encoding="utf-8"))
    assert 0 < report["seconds"] < 120
    assert all(0 <= row["epoch_duration"] < 120 for row in report["epochs"])


def test_max_time_is_not_the_wall_clock(new_job: Callable[..., Job], reference: dict[str, Any]) -> None:
    """Time is up although the wall clock stands a year back; the run goes on where it was."""
    job = new_job("train.max_time_s=0.000001")
    jump = {"place": "build", "count": 1, "what": "clock", "jump_s": -365 * 86400.0}
    assert job.train(jump)["code"] == 75
    job.changes = ()
    assert job.train()["code"] == 0, job.said()
    assert differences(reference, facts(job.run_dir)) == []
