"""What happens in the process of a job or a cell: the work, and one record of how it ended.

    outcome = work(order)         # {"status", "exit_code", "result", "error"}

An order is plain data, so it can be kept in the table of jobs and sent to another machine.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import TorchstoneError

if TYPE_CHECKING:
    from torchstone.study.kinds.record import Ended

log = logging.getLogger(__name__)

LOG = "log.txt"
"""In a cell's run folder: everything that its processes printed."""
WATCH_S = 0.2
GRACE_S = 60.0
"""Seconds that a cell whose runner is gone has to save its state."""


def work(order: Mapping[str, Any]) -> dict[str, Any]:
    """Do what the order says, in its folder, from where it was left."""
    from torchstone.study.kinds.registry import JOB_KINDS

    if order.get("store"):
        os.environ["TORCHSTONE_STORE"] = order["store"]
    if order.get("threads"):
        import torch

        torch.set_num_threads(int(order["threads"]))
    try:
        ended = _done(order) if "kind" in order else JOB_KINDS.get("training").run(order)
    except TorchstoneError as error:
        log.error("%s", error)
        return {"status": "failed", "exit_code": error.exit_code, "result": None, "error": error.to_dict()}
    except Exception as error:
        log.exception("the job failed")
        told = TorchstoneError(
            f"{type(error).__name__}: {error}", where=str(Path(order["run_dir"]) / LOG)
        ).to_dict()
        return {"status": "failed", "exit_code": 1, "result": None, "error": told}
    return {"status": ended.status, "exit_code": ended.exit_code, "result": ended.record, "error": None}


def _done(order: Mapping[str, Any]) -> Ended:
    """A job of the queue, by one process at a time: that of a worker that was killed may still be ending."""
    from torchstone.study.kinds.registry import JOB_KINDS
    from torchstone.tracking.run_folder import locked_file
    from torchstone.tracking.store import Store

    os.chdir(order["cwd"])
    kind, folder = JOB_KINDS.get(order["kind"]), Path(order["run_dir"])
    with locked_file(folder / "job.lock"):
        if order.get("unprepared"):  # a schedule made it, and what it names may have changed since
            with Store.open(order["store"]) as store:
                order = {**order, **kind.prepare(order["config"], store)}
        return kind.run(order)


class Diary:
    """Lines for the log of a cell, where nobody watches."""

    def on_start(self, info: Any) -> None:
        log.info(
            "%s: %d parameters, %d steps on %s, from step %d",
            *(info.model, info.parameters, info.total_steps, info.device, info.first_step),
        )

    def on_eval(self, info: Any) -> None:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in info.metrics.items())
        log.info("step %d: %s", info.step, metrics)


@contextmanager
def logged(run_dir: Path) -> Iterator[None]:
    """Whatever this process prints goes to the log of its cell."""
    run_dir.mkdir(parents=True, exist_ok=True)
    file = os.open(run_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    before = [os.dup(1), os.dup(2)]
    try:
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True
        )
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, old in zip((1, 2), before, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        os.close(file)


def leave_with_parent() -> None:
    """Save and end when the process that started this one is gone, however that came: no orphan goes on."""
    import multiprocessing
    import signal
    import time

    parent, runner = os.getppid(), multiprocessing.parent_process()

    def watch() -> None:
        while os.getppid() == parent and (runner is None or runner.is_alive()):
            time.sleep(WATCH_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(143)

    threading.Thread(target=watch, name="torchstone-parent", daemon=True).start()
