"""Cells as jobs of a Slurm site, through submitit; the run folders lie on the site's shared file system.

`cluster="local"` runs the same code in processes of this machine, without Slurm.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from torchstone._optional import require
from torchstone.study.executor import Order, died


class SlurmExecutor:
    """One job per cell. What a site wants (partition, account ...) comes from SBATCH_ variables."""

    shares_store = False

    def __init__(self, jobs: int | None = None, device: str | None = None, *, cluster: str = "slurm") -> None:
        self._submitit: Any = require("submitit", "slurm")
        self._cluster, self._device = cluster, device
        self.slots = jobs or 16

    def start(self, order: Order) -> SlurmRunning:
        folder = Path(order["run_dir"]) / "slurm"
        executor = self._submitit.AutoExecutor(folder=folder, cluster=self._cluster)
        executor.update_parameters(name=str(order.get("name", "cell")).replace("/", "-"), timeout_min=60 * 24)
        if self._cluster == "slurm":
            executor.update_parameters(gpus_per_node=0 if self._device == "cpu" else 1)
        return SlurmRunning(executor.submit(_in_job, {"device": self._device} | dict(order)))

    def close(self) -> None:
        """Jobs that were handed in stay: Slurm goes on without us."""


class SlurmRunning:
    def __init__(self, job: Any) -> None:
        self._job = job
        self._outcome: dict[str, Any] | None = None

    def outcome(self) -> dict[str, Any] | None:
        if self._outcome is None and self._job.done():
            try:
                self._outcome = self._job.result()
            except Exception as error:
                self._outcome = died(None) | {
                    "error": {"what": f"its job {self._job.job_id} ended: {type(error).__name__}: {error}"}
                }
        return self._outcome

    def stop(self, number: signal.Signals) -> None:
        self._job.cancel(check=False)


def _in_job(order: Order) -> dict[str, Any]:
    from torchstone.study.executor import LocalExecutor, LocalRunning
    from torchstone.train.device import choose_device

    # Slurm has chosen the device; whatever it left visible is the first.
    executor = LocalExecutor(1, order["device"] or str(choose_device(None)), start_method="spawn")
    running = executor.start(order)
    assert isinstance(running, LocalRunning), "the first is always tried"
    while (outcome := running.outcome()) is None:
        running.process.join(0.2)
    return outcome
