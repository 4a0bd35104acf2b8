"""Kill -9 anywhere: the run that was resumed is the run that nothing happened to."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.calls import why_not
from faults.job import Job, Server
from faults.rain import KILL, PLACES, Rain

SHARES = 6
IN_EVERY_TEST_RUN = 3
needs_calls = pytest.mark.skipif(bool(why_not()), reason=why_not() or "calls can be watched")


@needs_calls
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(share, marks=[] if share < IN_EVERY_TEST_RUN else pytest.mark.campaign)
        for share in range(SHARES)
    ],
)
def test_kill_at_every_kind_of_call_that_changes_the_disk(
    new_job: Callable[..., Job], reference: dict[str, Any], labels: list[str], share: int
) -> None:
    rain = Rain(new_job, reference)
    mine = labels[share::SHARES]
    for label in mine:
        rain.strike_surely({"io": label, "count": 1, "signals": KILL})
    rain.finish()
    assert rain.tally.broken == []
    assert rain.tally.kinds_of_kills >= 0.9 * len(mine)
    assert len(labels) >= 60


@needs_calls
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.campaign)])
def test_kill_at_calls_after_the_last_step(
    new_job: Callable[..., Job], reference: dict[str, Any], stride: int
) -> None:
    report = "rename one/.report.json.N.partial"
    calls = new_job().train(trace=True)["trace"]
    rain = Rain(new_job, reference)
    for later in range(1, len(calls) - calls.index(report), stride):
        rain.strike({"io": report, "count": 1, "signals": [], "kill_after": later})
    rain.finish()
    assert rain.tally.broken == []
    assert rain.tally.kills >= 10


@pytest.mark.parametrize("place", PLACES)
def test_kill_in_every_phase(new_job: Callable[..., Job], reference: dict[str, Any], place: str) -> None:
    rain = Rain(new_job, reference)
    for count in {1, 2, PLACES[place] // 2, PLACES[place]} - {0}:
        rain.strike({"place": place, "count": count, "what": "kill"})
    rain.finish()
    assert rain.tally.broken == []
    assert rain.tally.kills >= 1


@pytest.mark.parametrize(("seed", "knobs"), [(0, ()), (1, ("train.async_save=true",))])
def test_kill_at_random_instants_under_the_eyes_of_a_reader(
    server: Server,
    new_job: Callable[..., Job],
    reference: dict[str, Any],
    tmp_path: Path,
    seed: int,
    knobs: tuple[str, ...],
) -> None:
    rng = random.Random(seed)
    rain = Rain(lambda: new_job(*knobs), reference, seed)
    with server.watching(tmp_path) as seen:
        for _ in range(8):
            rain.strike({"after_s": rng.uniform(0.0, 0.3), "signals": KILL})
        rain.finish()
    assert rain.tally.broken + seen["broken"] == []
    assert seen["opened"] >= 3
