"""Runners and cells are killed anywhere: each result comes exactly once, and no process is left behind.

The campaign: `pytest -m campaign tests/study_cells`, or `make campaign` with everything else.

TORCHSTONE_CAMPAIGN_KILLS=500      how many, at least
TORCHSTONE_CAMPAIGN_SEED=0         of the draws; share n of 100 kills uses seed + n, so one can be run alone
TORCHSTONE_CAMPAIGN_REPORT=DIR     DIR/cells/campaign.json and .md are written (default build/campaign)
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.job import ForkServer
from faults.laws import is_clock
from faults.rain import REPORT, Tally
from study_cells.conftest import write_study
from study_cells.runner_server import SLOTS
from tracking.postgres import new_address

from torchstone.study.cells import known
from torchstone.study.plan import plan_study
from torchstone.study.study_file import read_study
from torchstone.tracking.run_folder import holder
from torchstone.tracking.store import Store

HERE = Path(__file__).resolve().parent
WHOM = {
    "runner": "the runner",
    "cell": "a cell",
    "both": "the runner and its cells",
    "two runners": "two runners of one study",
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found and forked as on Linux")


class Server(ForkServer):
    def __init__(self, home: Path) -> None:
        super().__init__(HERE / "runner_server.py", home)
        self.quiet: dict[tuple[int, int], Quiet] = {}
        study = self.study(home / "warm.toml", rates=[0.5], seeds=[1])
        cell = plan_study(read_study(study)).cells[0]
        warm = {"run_dir": str(home / "warm"), "settings": cell.settings.to_json(), "device": "cpu"}
        told = self.ask({"warm": warm})
        assert told == {"status": "completed", "threads": 1}, (told, self.said())

    def study(self, path: Path, *, rates: list[float], seeds: list[int]) -> str:
        return write_study(path, self.text, rates=rates, seeds=seeds)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("runners"))
    yield server
    server.close()


@dataclass
class Place:
    """A study, and where it is run."""

    study: str
    base: Path
    store: str

    def request(self) -> dict[str, Any]:
        return {"study": self.study, "base": str(self.base), "store": self.store}


def facts(place: Place) -> dict[str, Any]:
    """What must be the same, killed or not, of every cell: its result and its rows."""
    plan, base, found = plan_study(read_study(place.study)), place.base, {}
    with Store.open(place.store, readonly=True) as store:
        for state in known(plan, store, base / "cells").states():
            assert state.status == "done" and state.result is not None, (state.cell.name, state.error)
            assert holder(state.run_dir) is None
            result = state.result
            found[state.cell.name] = (result["status"], result["steps"], result["tokens"], result["final"])
        runs = store.runs()
        assert sorted(run.run_dir for run in runs) == sorted({run.run_dir for run in runs})
        assert len(runs) == len(plan.cells) and {run.status for run in runs} == {"completed"}
        for run in runs:
            for row in store.metrics(run.run_id):
                name = (Path(run.run_dir).name, row.key, row.step)
                assert name not in found
                found[name] = "a clock's" if is_clock(row.key) else row.value
    return found


@dataclass
class Quiet:
    """A study that nothing happened to, which all others of its size must equal."""

    study: str
    facts: dict[str, Any]
    cell_s: float
    """How long a cell took."""


def untouched(server: Server, rates: int, seeds: int) -> Quiet:
    """Run once for all, in a file."""
    if (known := server.quiet.get((rates, seeds))) is None:
        base = server.home / f"quiet-{rates}x{seeds}"
        base.mkdir()
        values = [0.01 * (1 + number) for number in range(rates)]
        study = server.study(base / "tiny.toml", rates=values, seeds=[*range(1, seeds + 1)])
        place = Place(study, base, str(base / "store.db"))
        told = server.ask(place.request())
        assert (told["code"], told["orphans"]) == (0, 0), said(base)
        known = Quiet(study, facts(place), told["wall_s"] * SLOTS / (rates * seeds))
        server.quiet[rates, seeds] = known
    return known


def rain(
    quiet: Quiet, server: Server, base: Path, new_store: Callable[[Path], str], *, kills: int, seed: int
) -> Tally:
    """Kill until so many kills have struck, beginning anew whenever a study got through; then compare."""
    tally, draw_next = Tally(), partial(draw, random.Random(seed), quiet.cell_s)
    while tally.kills < kills:
        killed = base / f"killed-{tally.runs}"
        killed.mkdir()
        place = Place(quiet.study, killed, new_store(killed))
        tally.runs += 1
        try:
            kill_until_through(server, place, draw_next, tally, kills)
            assert facts(place) == quiet.facts
        except AssertionError as broken:
            tally.broken.append(f"{broken}; seed {seed}, in {killed}")
    return tally


def kill_until_through(
    server: Server, place: Place, draw: Callable[[], list[dict[str, Any]]], tally: Tally, kills: int
) -> None:
    """Run one study to its end, through all kills that strike on the way."""
    while True:
        drawn = draw()[: kills - tally.kills]
        told = server.ask(place.request() | {"kills": drawn})
        tally.cpu_s += told["cpu_s"]
        for each in told["strikes"]:
            at = "at work" if each["cells"] else "before a cell began"
            found = bool(each["cells"] or each["whom"] != "cell")
            tally.add(f"KILL of {WHOM[each['whom']]}, {at}", "killed" if found else "found nobody")
        assert told["orphans"] == 0, f"{told} after {drawn}"
        if told["code"] == 0:
            return
        assert told["code"] == -9, f"{told} after {drawn}: {said(place.base)}"


def said(base: Path) -> str:
    """By the runners there; one that was killed at once said nothing."""
    log = base / "runner.txt"
    return log.read_text(errors="replace")[-2000:] if log.is_file() else ""


def draw(rng: random.Random, cell_s: float) -> list[dict[str, Any]]:
    """Kills of cells until one strikes their runner. `cell_s`: how long a cell takes if nobody is killed.

    Most strike sooner than that: cells go on from their checkpoints, so every part of one is struck.
    """
    kills: list[dict[str, Any]] = []
    while not kills or kills[-1]["whom"] == "cell":
        since, whom = rng.choice(["start", "cell", "cell"]), rng.choice([*WHOM])
        kills.append({"since": since, "after_s": rng.uniform(0.0, 0.8 * cell_s), "whom": whom})
    return kills


@pytest.fixture
def new_store(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    return partial(new_address, request, request.param)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("new_store, kills", [("sqlite", 40), ("postgresql", 6)], indirect=["new_store"])
def test_forty_kills(server: Server, tmp_path: Path, new_store: Callable[[Path], str], kills: int) -> None:
    """And some on a server; that it keeps leases as a file does is a law of the table itself."""
    tally = rain(untouched(server, 4, 2), server, tmp_path, new_store, kills=kills, seed=0)
    assert (tally.broken, tally.kills) == ([], kills)


KILLS = int(os.environ.get("TORCHSTONE_CAMPAIGN_KILLS", "500"))
SEED = int(os.environ.get("TORCHSTONE_CAMPAIGN_SEED", "0"))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(SEED, SEED + -(-KILLS // 100)))
def test_a_hundred_cells(server: Server, tmp_path: Path, seed: int) -> None:
    file = lambda folder: str(folder / "store.db")  # noqa: E731
    tally = rain(untouched(server, 20, 5), server, tmp_path, file, kills=min(100, KILLS), seed=seed)
    tally.keep_part(REPORT / "cells", seed)
    assert tally.broken == []
