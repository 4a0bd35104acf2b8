"""Running a study: what is done stays done, failures are told, budgets and signals are obeyed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli.conftest import Answer
from faults.job import HERE as FAULTS
from zoo.documented import schema

from torchstone._errors import RunLocked
from torchstone.study.cells import LEASE_S, Budget, enter, run_cells
from torchstone.study.executor import LocalExecutor, open_executor
from torchstone.study.plan import plan_study
from torchstone.study.study_file import read_study
from torchstone.tracking.job_table import JobTable
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store
from torchstone.train import fit
from torchstone.train.place import Place

Write = Callable[..., str]
TESTS = FAULTS.parent


def surroundings(folder: Path) -> dict[str, str]:
    paths = [str(TESTS), *(path for path in sys.path if path)]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TORCHSTONE_CACHE": str(folder)}
    return {**os.environ, **own}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cells are new processes, which shall find what this one finds."""
    for name, value in surroundings(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.timeout(300)
def test_a_study_is_run_and_what_is_done_stays_done(
    tiny_study: Write, tmp_path: Path, torchstone: Callable[..., Answer], here: None
) -> None:
    study = tiny_study()
    first = torchstone("study", "run", study, "--jobs", 2, "--json")
    assert first.code == 0, first.err
    told = first.object
    jsonschema.validate(told, schema("torchstone.study-cells/1"))
    assert told["counts"] == {"done": 2} and {each["steps"] for each in told["cells"]} == {8}
    folders = [tmp_path / each["run_dir"] for each in told["cells"]]
    stamps = [(each / "report.json").stat().st_mtime_ns for each in folders]

    again = torchstone("study", "run", study, "--proven")
    assert again.code == 0 and "all 2 cells are done" in again.out, again.err
    assert [(each / "report.json").stat().st_mtime_ns for each in folders] == stamps
    shown = torchstone("study", "status", study, "--json").object
    jsonschema.validate(shown, schema("torchstone.study-cells/1"))
    assert shown["cells"] == told["cells"]
    assert len(torchstone("runs", "list", "--json").object["runs"]) == 2
    assert "8 steps" in (folders[0] / "log.txt").read_text()


@pytest.fixture
def cells_of(tmp_path: Path) -> Any:
    stores: list[Store] = []

    def make(study: str) -> Any:
        stores.append(Store.open(tmp_path / "runs" / "store.db"))
        return enter(plan_study(read_study(study)), stores[-1], tmp_path / "runs" / "tiny")

    yield make
    for each in stores:
        each.close()


def run_quietly(cells: Any, budget: Budget | None = None) -> Any:
    executor = LocalExecutor(2, "cpu")
    try:
        return run_cells(cells, executor, budget or Budget())
    finally:
        executor.close()


@pytest.mark.timeout(300)
def test_a_cell_that_fails_does_not_stop_the_others(
    tiny_study: Write, cells_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", surroundings(tmp_path)["PYTHONPATH"])
    cells = cells_of(tiny_study())
    broken, sound = cells.plan.cells
    job = cells.table.job(broken.id)
    (Path(job.order["run_dir"])).mkdir(parents=True)
    (Path(job.order["run_dir"]) / "checkpoints").write_text("a file where a folder must be")
    ending = run_quietly(cells)
    assert ending.exit_code == 1 and "1 of 2" in ending.reason
    states = {each.cell.id: each for each in cells.states()}
    assert states[sound.id].status == "done" and states[broken.id].status == "failed"
    assert states[broken.id].error["what"]
    (Path(job.order["run_dir"]) / "checkpoints").unlink()
    assert cells.table.again([broken.id]) == 1
    assert run_quietly(cells).exit_code == 0


@pytest.mark.timeout(300)
def test_a_budget_ends_it_with_the_state_saved(
    tiny_study: Write, cells_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", surroundings(tmp_path)["PYTHONPATH"])
    cells = cells_of(tiny_study(steps=400, seeds=[1, 2]))
    ending = run_quietly(cells, Budget(max_cost=1e-9, cost_per_hour=1.0))
    assert (ending.exit_code, ending.reason) == (75, "--max-cost 1e-09")
    assert {each.status for each in cells.states()} == {"waiting"}
    assert all(each.job.tries == 0 for each in cells.states()), "to be stopped is no failed try"


@pytest.mark.timeout(300)
def test_ctrl_c_saves_and_the_same_command_goes_on(
    tiny_study: Write, tmp_path: Path, torchstone: Callable[..., Answer], here: None
) -> None:
    study = tiny_study(steps=300)
    command = [sys.executable, "-m", "torchstone", "study", "run", study, "--jobs", "2", "--proven", "-q"]
    process = subprocess.Popen(command, cwd=tmp_path, env=surroundings(tmp_path), stdout=subprocess.PIPE)
    while not list(tmp_path.glob("runs/tiny/*/checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert torchstone("study", "status", study, "--json").object["counts"] == {"waiting": 2}
    done = torchstone("study", "run", study, "--json", "--proven")
    assert done.code == 0, done.err
    cells = done.object["cells"]
    assert any(
        json.loads((tmp_path / each["run_dir"] / "report.json").read_text())["resumed_from"] for each in cells
    )


def test_a_place_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="cannot be run on 'mars'"):
        open_executor("mars")


@pytest.mark.timeout(300)
def test_cells_that_need_more_memory_than_there_is_wait_for_each_other(
    tiny_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", surroundings(tmp_path)["PYTHONPATH"])
    most: list[int] = []
    with Store.open(tmp_path / "runs" / "store.db") as store:
        plan = plan_study(read_study(tiny_study()))
        cells = enter(plan, store, tmp_path / "runs" / "tiny", needs=lambda cell: 1 << 50)
        executor = LocalExecutor(2, "cpu")
        try:
            ending = run_cells(
                cells, executor, Budget(), hear=lambda cells, working: most.append(len(working))
            )
        finally:
            executor.close()
    assert ending.exit_code == 0 and max(most) == 1


class Begun:
    """A cell that is over at once."""

    def outcome(self) -> dict[str, Any]:
        return {"status": "completed", "exit_code": 0, "result": None, "error": None}

    def stop(self, number: Any) -> None:
        raise AssertionError("nobody else wanted it")


def test_a_cell_whose_start_outlasts_its_lease_is_started_once(tiny_study: Write, tmp_path: Path) -> None:
    now, begun = [0.0], []

    class Slow:
        slots, shares_store = 2, True

        def start(self, order: Any) -> Begun:
            assert order["name"] not in begun, "its lease was left to the next claim"
            begun.append(order["name"])
            now[0] += 10 * LEASE_S
            return Begun()

        def close(self) -> None: ...

    with Store.open(tmp_path / "store.db") as store:
        cells = enter(plan_study(read_study(tiny_study(seeds=[1, 2]))), store, tmp_path)
        cells.table = JobTable(store, cells.plan.study.name, clock=lambda: now[0])
        assert run_cells(cells, Slow(), Budget()).exit_code == 0
    assert sorted(begun) == sorted(each.name for each in cells.plan.cells)


def test_leases_are_renewed_while_a_cell_is_being_started(tiny_study: Write, tmp_path: Path) -> None:
    renewed: set[str] = set()
    seen = threading.Condition()

    class Watched(JobTable):
        def renew(self, leases: Any, *, seconds: float) -> list[Any]:
            lost = super().renew(leases, seconds=seconds)
            if threading.current_thread() is not threading.main_thread():
                with seen:
                    renewed.update(each.job_id for each in leases)
                    seen.notify_all()
            return lost

    class Slow:
        slots, shares_store = 2, True

        def start(self, order: Any) -> Begun:
            begun.append(order["name"])
            with seen:
                assert seen.wait_for(lambda: len(renewed) >= len(begun), timeout=20), f"kept: {renewed}"
            return Begun()

        def close(self) -> None: ...

    begun: list[str] = []
    with Store.open(tmp_path / "store.db") as store:
        cells = enter(plan_study(read_study(tiny_study())), store, tmp_path)
        cells.table = Watched(store, cells.plan.study.name)
        assert run_cells(cells, Slow(), Budget(), lease_s=0.3).exit_code == 0
    assert len(begun) == 2


def test_a_run_that_another_process_began_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    decided = Place(run_dir=tmp_path / "run")
    RunFolder.create(decided.run_dir)
    with pytest.raises(RunLocked, match="in the meantime"):
        fit._enter(decided, None, None)  # type: ignore[arg-type]
