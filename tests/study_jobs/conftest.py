"""A kind of job that costs a few milliseconds, so that hundreds can be run and killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tracking.postgres import postgres

from torchstone._errors import TorchstoneError, TryAgain, UsageError
from torchstone.study.executor import LocalExecutor
from torchstone.study.job_queue import JobManager
from torchstone.study.kinds.record import Ended, JobKind, Order, require_keys
from torchstone.study.kinds.registry import JOB_KINDS
from torchstone.study.worker import run_worker
from torchstone.tracking.store import Store

__all__ = ["postgres"]
KEYS = ("name", "work_s", "fails", "usage", "until")


def prepare(config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    require_keys(config, KEYS)
    return {}


def run(order: Order) -> Ended:
    """Notes that it began, works, and ends as its configuration says."""
    config, diary = order["config"], Path(order["root"]) / "diary.txt"
    with diary.open("a") as file:
        file.write(f"{config.get('name')} {order['token']} {os.getpid()}\n")
    began = time.monotonic()
    while time.monotonic() - began < config.get("work_s", 0.0):
        time.sleep(0.005)
    if (tries := diary.read_text().count(f"{config.get('name')} ")) <= config.get("fails", 0):
        kind: type[TorchstoneError] = UsageError if config.get("usage") else TryAgain
        raise kind(f"failure {tries}") if tries % 2 or config.get("usage") else RuntimeError("by accident")
    while config.get("until") and not Path(config["until"]).exists():
        time.sleep(0.005)
    return Ended("completed", 0, {"token": order["token"]})


TINY = JobKind("tiny", "nearly nothing", KEYS, prepare, run)


@pytest.fixture(autouse=True, scope="session")
def tiny() -> None:
    if "tiny" not in JOB_KINDS:
        JOB_KINDS.add(TINY)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobManager]:
    with Store.open(tmp_path / "store.db") as store:
        yield JobManager(store)


def work(queue: JobManager, **how: Any) -> Any:
    """A worker in this process; its jobs are forked from it."""
    executor = LocalExecutor(how.pop("slots", 1), "cpu", start_method="fork")
    try:
        return run_worker(queue, executor, **{"drain": True, "pauses_s": (0.0,), "poll_interval": 0.05} | how)
    finally:
        executor.close()


@pytest.fixture
def begun(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the jobs in the order in which they were begun."""
    return lambda: [line.split()[0] for line in (tmp_path / "diary.txt").read_text().splitlines()]
