"""What the four drift panels cost beside the plain dashboard: PNG, interleaved, CPU time.

    OMP_NUM_THREADS=1 python bench/dashboard.py --rounds 9 --out build/bench/dashboard.json

Goal: at most 500 ms more. Reading the store is part of both.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from torchstone.drift.monitor import Monitor
from torchstone.drift.tables import profile_table
from torchstone.report.dashboard import dashboard_figure
from torchstone.report.drift_info import drift_info
from torchstone.report.figure_file import write_picture
from torchstone.report.run_info import run_info
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

GOAL_MS = 500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store.db") as store:
        a_watched_run(store, wanted.windows)
        told = measure(store, Path(folder) / "dashboard.png", wanted.rounds) | {"windows": wanted.windows}
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))


def a_watched_run(store: Store, windows: int) -> None:
    rng = np.random.default_rng(0)
    store.start_run("r", name="watched", kind="train", run_dir="runs/r")
    rows = []
    for step in range(1, 1001):
        values = {
            "train/loss": 2 + 5 * math.exp(-step / 200) + rng.normal(0, 0.1),
            "train/grad_norm": 1 + rng.random(),
            "train/tokens_per_s": 9e3,
            "train/learning_rate": 3e-4,
            "val/accuracy": 0.5,
            "val/loss": 2.2,
        }
        rows += [MetricRow(key, step, value) for key, value in values.items()]
    store.log_rows("r", rows)
    store.finish_run("r", "completed")
    columns = lambda count: {f"feature {each}": rng.normal(size=count) for each in range(8)}  # noqa: E731
    monitor = Monitor(profile_table(columns(500)), profile_table, window=100)
    for _ in range(windows):
        window = monitor.watch(columns(100))
        assert window is not None
        store.add_event("r", "drift", window.record)


def measure(store: Store, path: Path, rounds: int) -> dict[str, Any]:
    def draw(watched: bool) -> float:
        began = time.process_time()
        drift = drift_info(store, "r") if watched else None
        write_picture(dashboard_figure(run_info(store, "r"), drift=drift), path)
        return 1000 * (time.process_time() - began)

    draw(False), draw(True)  # fonts are found once
    pairs = [(draw(False), draw(True)) for _ in range(rounds)]
    more = [watched - plain for plain, watched in pairs]
    return {
        "schema": "torchstone.bench-dashboard/1",
        "plain_cpu_ms": statistics.median(plain for plain, _ in pairs),
        "with_drift_cpu_ms": statistics.median(watched for _, watched in pairs),
        "more_cpu_ms": statistics.median(more),
        "ratio": statistics.median(watched / plain for plain, watched in pairs),
        "goal_ms": GOAL_MS,
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
