"""Services that get a copy of a run's rows: W&B, trackio, TensorBoard, MLflow. The store stays the truth.

    sink = SINKS.get("wandb").make(Copied(run, folder, state={}))
    sink.send(step=10, values={"train/loss": 2.1}, at=1769860800.0)
    sink.close("completed")

A sink may raise and may be slow: `replica.py` stands between it and the training. It honours the variables of
its own service (`WANDB_MODE`, `WANDB_PROJECT`, `MLFLOW_TRACKING_URI` ...).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torchstone._optional import require
from torchstone._registry import Registry
from torchstone.tracking.rows import RunRow
from torchstone.tracking.scrub import scrub

PROJECT = "torchstone"
_MLFLOW_PARAMETER = 500
"""Characters of a parameter's value that MLflow has room for."""


@dataclass(frozen=True)
class Copied:
    """A run as a sink gets to know it."""

    run: RunRow
    folder: Path
    state: dict[str, Any]
    """What the sink wants to find again in the next session; kept as JSON."""

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration without secrets."""
        cleaned: dict[str, Any] = json.loads(scrub(json.dumps(self.run.config, default=str)))
        return cleaned


class Sink(Protocol):
    """One run at one service. What `send` took before an error may arrive twice, never wrong."""

    def send(self, step: int, values: Mapping[str, float], at: float) -> None:
        """All values of a step that are known; steps rise, except in `any_order` sinks."""

    def close(self, status: str) -> None:
        """The run ended as `status`; returns when the service has everything."""


@dataclass(frozen=True, kw_only=True)
class SinkRecord:
    """A service: how to make its sink, and what it can do."""

    name: str
    make: Callable[[Copied], Sink]
    extra: str
    """Of torchstone, that brings its library `name`."""
    any_order: bool
    """Whether a step may be sent after a later one."""


SINKS: Registry[SinkRecord] = Registry("sink")


class _LikeWandb:
    """W&B, and trackio, which has the same calls."""

    def __init__(self, library: Any, copied: Copied, **options: Any) -> None:
        self._run = library.init(name=copied.run.name, config=copied.config, **options)

    def send(self, step: int, values: Mapping[str, float], at: float) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._run.finish()


class _Wandb(_LikeWandb):
    """One W&B run per run, continued under the same id. Offline without a network: `WANDB_MODE=offline`."""

    def __init__(self, copied: Copied) -> None:
        library = require("wandb", "wandb")
        super().__init__(
            library,
            copied,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=copied.state.setdefault("id", copied.run.run_id),
            dir=str(copied.folder),
            resume="allow",
            reinit="create_new",
            settings=library.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def close(self, status: str) -> None:
        self._run.finish(exit_code=1 if status == "failed" else 0)


class _Trackio(_LikeWandb):
    def __init__(self, copied: Copied) -> None:
        library = require("trackio", "trackio")
        super().__init__(
            library, copied, project=os.environ.get("TRACKIO_PROJECT", PROJECT), resume="allow", embed=False
        )


class _TensorBoard:
    """Event files in `tensorboard/` of the run folder."""

    def __init__(self, copied: Copied) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Rows are replayed from the store in one thread; the writer's own queue only delays errors.
        self._writer = SummaryWriter(str(copied.folder / "tensorboard"), max_queue=1)

    def send(self, step: int, values: Mapping[str, float], at: float) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, global_step=step, walltime=at)
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()


class _Mlflow:
    """One MLflow run per run. Without `MLFLOW_TRACKING_URI`: the file `mlflow.db` beside the run folders."""

    def __init__(self, copied: Copied) -> None:
        require("mlflow", "mlflow")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        here = f"sqlite:///{copied.folder.absolute().parent / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", here))
        if "id" not in copied.state:
            copied.state["id"] = self._begin(copied)
        self._id: str = copied.state["id"]
        self._client.update_run(self._id, status="RUNNING")

    def _begin(self, copied: Copied) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run_id = str(self._client.create_run(experiment, run_name=copied.run.name).info.run_id)
        for key, value in copied.config.items():
            self._client.log_param(run_id, key, str(value)[:_MLFLOW_PARAMETER])
        return run_id

    def send(self, step: int, values: Mapping[str, float], at: float) -> None:
        metrics = [self._metric(key, value, int(at * 1000), step) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, status: str) -> None:
        ending = {"completed": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
        self._client.set_terminated(self._id, ending)


SINKS.add(SinkRecord(name="wandb", make=_Wandb, extra="wandb", any_order=False))
SINKS.add(SinkRecord(name="trackio", make=_Trackio, extra="trackio", any_order=True))
SINKS.add(SinkRecord(name="tensorboard", make=_TensorBoard, extra="tensorboard", any_order=True))
SINKS.add(SinkRecord(name="mlflow", make=_Mlflow, extra="mlflow", any_order=True))
