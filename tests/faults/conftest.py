"""A fork server per worker, and the run that nothing happened to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.job import Job, Server
from faults.laws import broken_promises, facts


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def reference(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Facts of the uninterrupted run."""
    job = Job(server, tmp_path_factory.mktemp("reference") / "base")
    assert job.train()["code"] == 0, job.said()
    assert broken_promises(job.run_dir) == []
    return facts(job.run_dir)


@pytest.fixture
def new_job(server: Server, tmp_path: Path) -> Callable[..., Job]:
    """Runs to hurt, each in a folder of its own."""
    made: list[Job] = []

    def make(*changes: str, base: Path | None = None) -> Job:
        made.append(Job(server, base or tmp_path / f"job-{len(made)}", changes))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def labels(server: Server, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every kind of call that changes the disk in a run that is stopped once and resumed, in their order."""
    job = Job(server, tmp_path_factory.mktemp("trace") / "base")
    traces = [job.train({"place": "forward", "count": 20, "what": "kill"}, trace=True), job.train(trace=True)]
    return list(dict.fromkeys(label for each in traces for label in each["trace"]))
