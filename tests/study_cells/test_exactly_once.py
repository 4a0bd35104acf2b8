"""Runners and cells are killed anywhere: each result comes exactly once, and no process is left behind.

The campaign: `pytest -m campaign tests/study_cells`, or `make campaign` with everything else.

TORCHSTONE_CAMPAIGN_KILLS=500      how many, at least
TORCHSTONE_CAMPAIGN_SEED=0         of the draws; share n of 100 kills uses seed + n, so one can be run alone
TORCHSTONE_CAMPAIGN_REPORT=DIR     DIR/cells/campaign.json and .md are written (default build/campaign)
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.job import environment, write_text
from faults.laws import is_clock
from faults.rain import REPORT, Tally
from study_cells.conftest import write_study

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


class Server:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.text = write_text(home / "text")
        with (home / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "runner_server.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(home),
            )  # fmt: skip
        study = self.study(home / "warm.toml", rates=[0.5], seeds=[1])
        cell = plan_study(read_study(study)).cells[0]
        warm = {"run_dir": str(home / "warm"), "settings": cell.settings.to_json(), "device": "cpu"}
        told = self.ask({"warm": warm})
        assert told == {"status": "completed", "threads": 1}, (
            told,
            (home / "server.log").read_text()[-2000:],
        )

    def study(self, path: Path, *, rates: list[float], seeds: list[int]) -> str:
        return write_study(path, self.text, rates=rates, seeds=seeds)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, (self.home / "server.log").read_text()[-2000:]
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("runners"))
    yield server
    server.close()


def facts(study: str, base: Path) -> dict[str, Any]:
    """What must be the same, killed or not, of every cell: its result and its rows."""
    plan, found = plan_study(read_study(study)), {}
    with Store.open(base / "store.db", readonly=True) as store:
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


def rain(server: Server, base: Path, *, rates: int, seeds: int, kills: int, seed: int) -> Tally:
    """Kill until so many kills have struck, beginning anew whenever a study got through; then compare."""
    study = server.study(
        base / "tiny.toml", rates=[0.01 * (1 + n) for n in range(rates)], seeds=[*range(1, seeds + 1)]
    )
    quiet = base / "quiet"
    quiet.mkdir()
    told = server.ask({"study": study, "base": str(quiet)})
    assert (told["code"], told["orphans"]) == (0, 0), (quiet / "runner.txt").read_text()[-2000:]
    expected, tally, rng = facts(study, quiet), Tally(cpu_s=told["cpu_s"]), random.Random(seed)
    while tally.kills < kills:
        killed = base / f"killed-{tally.runs}"
        killed.mkdir()
        tally.runs += 1
        try:
            kill_until_through(server, study, killed, rng, tally, kills)
            assert facts(study, killed) == expected
        except AssertionError as broken:
            tally.broken.append(f"{broken}; seed {seed}, in {killed}")
    return tally


def kill_until_through(
    server: Server, study: str, base: Path, rng: random.Random, tally: Tally, kills: int
) -> None:
    """Run one study to its end, through all kills that strike on the way."""
    while True:
        whom = rng.choice([*WHOM])
        draw = {
            "since": rng.choice(["start", "cell", "cell"]),
            "after_s": rng.uniform(0.0, 1.2),
            "whom": whom,
        }
        kill = None if tally.kills >= kills else draw
        told = server.ask({"study": study, "base": str(base), "kill": kill})
        tally.cpu_s += told["cpu_s"]
        if kill is not None:
            killed = told["struck"] and (told["code"] != 0 or whom == "cell")
            place = "at work" if told["cells"] else "before a cell began"
            tally.add(f"KILL of {WHOM[whom]}, {place}", "killed" if killed else "went on")
        assert told["orphans"] == 0, f"{told} after {kill}"
        if told["code"] == 0:
            return
        assert told["code"] == -9, f"{told} after {kill}: {(base / 'runner.txt').read_text()[-2000:]}"


@pytest.mark.timeout(600)
def test_forty_kills(server: Server, tmp_path: Path) -> None:
    assert rain(server, tmp_path, rates=4, seeds=2, kills=40, seed=0).broken == []


KILLS = int(os.environ.get("TORCHSTONE_CAMPAIGN_KILLS", "500"))
SEED = int(os.environ.get("TORCHSTONE_CAMPAIGN_SEED", "0"))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(SEED, SEED + -(-KILLS // 100)))
def test_a_hundred_cells(server: Server, tmp_path: Path, seed: int) -> None:
    tally = rain(server, tmp_path, rates=20, seeds=5, kills=min(100, KILLS), seed=seed)
    tally.keep_part(REPORT / "cells", seed)
    assert tally.broken == []
