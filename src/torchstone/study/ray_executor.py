"""Cells on a Ray cluster: Ray decides where each goes, and this machine keeps the table of jobs.

The run folders must lie on a file system that all nodes see. Rows of a cell go into a store in its folder and
from there, when it is done, into the study's.
"""

from __future__ import annotations

import signal
from typing import Any

from torchstone._optional import require
from torchstone.study.executor import Order, died


class RayExecutor:
    """One task per cell, with one CPU or, where the cluster has some, one GPU."""

    shares_store = False

    def __init__(self, address: str | None, jobs: int | None = None, device: str | None = None) -> None:
        self._ray: Any = require("ray", "ray")
        self._mine = not self._ray.is_initialized()
        if self._mine:
            self._ray.init(address, log_to_driver=False, include_dashboard=False, logging_level="error")
        have = self._ray.cluster_resources()
        self._gpus = device != "cpu" and have.get("GPU", 0) >= 1
        self.slots = jobs or max(1, int(have.get("GPU" if self._gpus else "CPU", 1)))
        self._device = device

    def start(self, order: Order) -> RayRunning:
        share = {"num_gpus": 1} if self._gpus else {"num_cpus": 1}
        # Attempts are the table's business: a task that died is no success and no secret.
        task = self._ray.remote(max_retries=0, **share)(_in_task)
        whole = {"device": self._device or ("cuda:0" if self._gpus else "cpu")} | dict(order)
        return RayRunning(self._ray, task.remote(whole))

    def close(self) -> None:
        if self._mine:
            self._ray.shutdown()


class RayRunning:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference
        self._outcome: dict[str, Any] | None = None

    def outcome(self) -> dict[str, Any] | None:
        if self._outcome is None and self._ray.wait([self._reference], timeout=0)[0]:
            try:
                self._outcome = self._ray.get(self._reference)
            except self._ray.exceptions.RayError as error:
                self._outcome = died(None) | {
                    "error": {"what": f"its Ray task ended with {type(error).__name__}"}
                }
        return self._outcome

    def stop(self, number: signal.Signals) -> None:
        # A KeyboardInterrupt in the worker: the cell's own process is told to save and end.
        self._ray.cancel(self._reference, force=False)


def _in_task(order: Order) -> dict[str, Any]:
    """In a worker of Ray, which is not the main thread's to signal: the cell gets a process of its own."""
    from torchstone.study.executor import LocalExecutor, LocalRunning

    executor = LocalExecutor(1, order["device"], start_method="spawn")
    running = executor.start(order)
    assert isinstance(running, LocalRunning), "the first is always tried"
    try:
        while (outcome := running.outcome()) is None:
            running.process.join(0.2)
        return outcome
    except BaseException:
        running.stop(signal.SIGTERM)
        running.process.join()
        raise
