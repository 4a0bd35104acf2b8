"""Runs that other trackers hold, read into the store: W&B, TensorBoard, MLflow, trackio.

    for run in IMPORTS.get("wandb").read("runs/one/wandb"):
        keep(store, run)

An import can be repeated: a run keeps its id (`wandb-ID`), and a row is there once.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from torchstone._errors import DataError, UsageError
from torchstone._optional import require
from torchstone._registry import Registry
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.run_folder import safe_name
from torchstone.tracking.store import Store
from torchstone.tracking.wandb_file import as_number, read_wandb

KIND = "import"


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """A run as another tracker knew it."""

    run_id: str
    name: str
    status: str
    """One of the store's."""
    started: float
    """Seconds since 1970, UTC."""
    ended: float | None
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: list[MetricRow] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Import:
    """How to read one tracker."""

    name: str
    read: Callable[[str], Iterator[ImportedRun]]


IMPORTS: Registry[Import] = Registry("tracker")


def keep(store: Store, run: ImportedRun) -> int:
    """Enter a run and its rows; how many rows."""
    store.start_run(run.run_id, name=run.name, kind=KIND, run_dir="", config=run.config, started=run.started)
    store.log_rows(run.run_id, run.rows)
    store.finish_run(run.run_id, run.status, {"imported": True}, ended=run.ended)
    return len(run.rows)


def _times(rows: list[MetricRow]) -> tuple[float, float | None]:
    """When the first and the last row were made; 0.0 where nobody knows."""
    times = [row.at for row in rows if row.at]
    return (min(times), max(times)) if times else (0.0, None)


def _wandb(place: str) -> Iterator[ImportedRun]:
    """Sessions of one run lie in several files; the later ones go on where the earlier ended."""
    path = Path(place)
    files = [path] if path.is_file() else sorted(path.rglob("run-*.wandb"))
    _require_found(files, path, "an offline folder of W&B holds run-ID.wandb files")
    sessions: dict[str, list[Any]] = {}
    for file in files:
        read = read_wandb(file)
        sessions.setdefault(read.run_id, []).append(read)
    for run_id, parts in sessions.items():
        rows = [row for part in parts for row in part.rows]
        ends = {None: "interrupted", 0: "completed"}
        yield ImportedRun(
            run_id=f"wandb-{run_id}",
            name=parts[-1].name,
            status=ends.get(parts[-1].exit_code, "failed"),
            started=parts[0].started,
            ended=_times(rows)[1],
            config={key: value for part in parts for key, value in part.config.items()},
            rows=rows,
        )


def _tensorboard(place: str) -> Iterator[ImportedRun]:
    """Each folder with event files is a run, named by its path below `place`."""
    require("tensorboard", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    root = Path(place)
    files = sorted(root.rglob("*tfevents*"))
    _require_found(files, root, "TensorBoard writes files with tfevents in their name")
    for folder in dict.fromkeys(file.parent for file in files):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        tags = events.Tags()
        rows = [
            MetricRow(tag, each.step, each.value, each.wall_time)
            for tag in tags["scalars"]
            for each in events.Scalars(tag)
        ]
        for tag in tags["tensors"]:  # version 2 of the format keeps scalars as tensors
            for each in events.Tensors(tag):
                value = make_ndarray(each.tensor_proto)
                if value.size == 1:
                    rows.append(MetricRow(tag, each.step, float(value.reshape(())), each.wall_time))
        started, ended = _times(rows)
        name = root.absolute().name if folder == root else str(folder.relative_to(root))
        yield ImportedRun(
            run_id=f"tensorboard-{safe_name(name)}", name=name, status="completed", started=started,
            ended=ended, rows=rows,
        )  # fmt: skip


def _mlflow(place: str) -> Iterator[ImportedRun]:
    require("mlflow", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=place)
    endings = {"FINISHED": "completed", "FAILED": "failed", "RUNNING": "running"}
    experiments = [each.experiment_id for each in client.search_experiments()]
    for run in client.search_runs(experiments, max_results=50_000) if experiments else ():
        rows = [
            MetricRow(key, each.step, _unclamped(each.value), each.timestamp / 1000)
            for key in run.data.metrics
            for each in client.get_metric_history(run.info.run_id, key)
        ]
        yield ImportedRun(
            run_id=f"mlflow-{run.info.run_id}",
            name=run.info.run_name or run.info.run_id,
            status=endings.get(run.info.status, "interrupted"),
            started=run.info.start_time / 1000,
            ended=None if run.info.end_time is None else run.info.end_time / 1000,
            config=dict(run.data.params),
            rows=rows,
        )


def _unclamped(value: float) -> float:
    """MLflow keeps an infinity as the largest number that its database holds."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _trackio(place: str) -> Iterator[ImportedRun]:
    """trackio keeps a project in one SQLite file; a row's metrics are one JSON object."""
    path = Path(place)
    if not path.is_file():
        raise UsageError("there is no such file", where=place, next="give the .db file of a trackio project")
    with contextlib.closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)) as file:
        try:
            found = file.execute(
                "SELECT run_name, step, metrics, timestamp FROM metrics ORDER BY id"
            ).fetchall()
            configs = dict(_trackio_configs(file))
        except sqlite3.Error as error:
            raise DataError("this is no project of trackio", where=place, why=str(error)) from error
    runs: dict[str, list[MetricRow]] = {}
    for name, step, metrics, at in found:
        rows, time = runs.setdefault(name, []), datetime.fromisoformat(at).timestamp()
        for key, value in json.loads(metrics).items():
            if (number := as_number(value)) is not None:
                rows.append(MetricRow(key, int(step), number, time))
    for name, rows in runs.items():
        started, ended = _times(rows)
        yield ImportedRun(
            run_id=f"trackio-{safe_name(f'{path.stem}-{name}')}", name=name, status="completed",
            started=started, ended=ended, config=configs.get(name, {}), rows=rows,
        )  # fmt: skip


def _trackio_configs(file: sqlite3.Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.execute("SELECT 1 FROM sqlite_master WHERE name = 'configs'").fetchone():
        for name, config in file.execute("SELECT run_name, config FROM configs"):
            yield name, json.loads(config)


def _require_found(files: list[Path], where: Path, why: str) -> None:
    if not files:
        raise UsageError("nothing to import is there", where=str(where), why=why)


for _name, _read in (
    ("wandb", _wandb),
    ("tensorboard", _tensorboard),
    ("mlflow", _mlflow),
    ("trackio", _trackio),
):
    IMPORTS.add(Import(name=_name, read=_read))
