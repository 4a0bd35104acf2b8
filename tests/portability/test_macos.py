"""Import, training, recovery and loading do not need Linux: done in a process that looks like macOS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchstone.tracking.checkpoint import open_checkpoint
from torchstone.tracking.store import Store, default_store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("macos")
    script = Path(__file__).with_name("on_darwin.py")
    environ = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environ, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def told(home: Path) -> dict[str, Any]:
    return json.loads((home / "told.json").read_text())


def test_it_was_no_linux(told: dict[str, Any]) -> None:
    assert told["platform"] == "darwin"
    assert told["left"] == []
    if Path("/proc/cpuinfo").exists():
        assert "GHz" not in told["cpu"] and told["cores"] == os.cpu_count()


def test_a_run_is_stopped_saved_resumed_and_reported(told: dict[str, Any], home: Path) -> None:
    assert told["exit_codes"] == [143, 0]
    run = home / "run"
    checkpoint = open_checkpoint(run / "checkpoints" / "step-4")  # verifies every hash
    assert checkpoint.manifest["metrics"]["val/loss"] > 0
    assert (run / "latest").read_text() == "step-4\n"
    report = json.loads((run / "report.json").read_text())
    assert report["status"] == "completed" and (run / "dashboard.html").stat().st_size > 0
    with Store.open(default_store(run)) as store:
        rows = store.metrics(json.loads((run / "run.json").read_text())["run_id"], "train/loss")
    assert [row.step for row in rows] == [1, 2, 3, 4]


def test_a_spawned_worker_draws_the_same_batches(told: dict[str, Any]) -> None:
    here, there = told["drawn"]
    assert here == there and len(here) == 2


def test_the_isolated_worker_says_what_it_lacks_and_lives(told: dict[str, Any]) -> None:
    assert [each.partition(" (")[0] for each in told["walls"]] == [
        "process namespace",
        "fence",
        "no new privileges",
    ]
    assert all("darwin" in each for each in told["walls"])
