"""The same cells on a real Ray cluster of two nodes, and as jobs through submitit on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.job import HERE as FAULTS
from tracking.postgres import KINDS, new_address

from torchstone.study.cells import Budget, Cells, enter, run_cells
from torchstone.study.executor import Executor, LocalExecutor, open_executor
from torchstone.study.plan import plan_study
from torchstone.study.study_file import read_study
from torchstone.tracking.store import Store

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers are new processes: they inherit where the tiny model finds its parts."""
    import os
    import sys

    paths = [str(FAULTS.parent), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run_on(executor: Executor, study: str, base: Path, address: str | None = None) -> dict[str, Any]:
    """Result and rows of each cell."""
    plan = plan_study(read_study(study))
    with Store.open(address or base / "store.db") as store:
        cells: Cells = enter(plan, store, base / "cells")
        try:
            ending = run_cells(cells, executor, Budget())
        finally:
            executor.close()
        assert ending.exit_code == 0, [(each.cell.name, each.error) for each in cells.states()]
        found = {}
        for state in cells.states():
            assert state.result is not None
            rows = {
                (row.key, row.step): row.value
                for row in store.metrics(state.result["run_id"])
                if row.key.endswith("loss")
            }
            found[state.cell.name] = (state.result["final"], rows)
        return found


@pytest.mark.timeout(300)
def test_a_ray_cluster_of_two_nodes(tiny_study: Write, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'torchstone[ray]'")
    from ray.cluster_utils import Cluster

    study = tiny_study(rates=[0.01, 0.02, 0.03])
    here = run_on(LocalExecutor(1, "cpu"), study, tmp_path / "here")
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        executor = open_executor("ray", device="cpu")
        assert executor.slots == 2 and len([each for each in ray.nodes() if each["Alive"]]) == 2
        there = run_on(executor, study, tmp_path / "there")
    finally:
        ray.shutdown()
        cluster.shutdown()
        left = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
        for each in left:
            each.kill()
        psutil.wait_procs(left, timeout=20)
    assert there == here


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_jobs_through_submitit(
    request: pytest.FixtureRequest, kind: str, tiny_study: Write, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="pip install 'torchstone[slurm]'")
    study, address = tiny_study(rates=[0.01]), new_address(request, kind, tmp_path)
    here = run_on(LocalExecutor(1, "cpu"), study, tmp_path / "here")
    there = run_on(open_executor("slurm:local", device="cpu"), study, tmp_path / "there", address)
    assert there == here
    kept_aside = list((tmp_path / "there").rglob("store.db"))
    assert len(kept_aside) == (kind == "sqlite"), "a server takes the rows as they come"
