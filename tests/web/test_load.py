"""Thirty seconds at four times what the server can do: 200, 429 and 503 only, in time, at a constant size.

LOAD_TABLE=load.json pytest -m campaign tests/web/test_load.py       # docs/serve.md has the table
"""

from __future__ import annotations

import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from web.conftest import Client

SECONDS, TIMES, LIMIT_S = 30.0, 4, 5.0
ASKED = {"prompt": "a", "max_tokens": 32, "temperature": 0}
CONCURRENT = 32


@contextmanager
def program(bundle: Path, log: Path) -> Iterator[tuple[Client, psutil.Process]]:
    """The real program, in a process of its own."""
    command = [sys.executable, "-m", "torchstone", "serve", str(bundle), "--port", "0", "-q"]
    command += ["--set", f"timeout_s={LIMIT_S}", "--set", f"max_concurrent={CONCURRENT}"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        yield Client(process.stdout.readline().split()[-1]), psutil.Process(process.pid)
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.communicate()


@dataclass
class Load:
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, client: Client) -> None:
        began = time.monotonic()
        try:
            status = str(client("POST", "/v1/completions", ASKED).status)
        except OSError as trouble:
            status = type(trouble).__name__
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(time.monotonic() - began)


def capacity(client: Client) -> float:
    """Answers per second where 16 clients ask again as soon as they are answered."""
    load, until = Load(), time.monotonic() + 6

    def ask() -> None:
        while time.monotonic() < until:
            load.ask(client)

    with ThreadPoolExecutor(16) as crowd:
        for each in [crowd.submit(ask) for _ in range(16)]:
            each.result()
    assert set(load.statuses) == {"200"}
    return load.statuses["200"] / 6


def arrivals(client: Client, rate: float, process: psutil.Process) -> tuple[Load, list[int]]:
    """Requests at a fixed rate, answered or not; and the bytes of memory each half second."""
    load, due, memory = Load(), queue.SimpleQueue[bool](), list[int]()

    def work() -> None:
        while due.get():
            load.ask(client)

    workers = [threading.Thread(target=work) for _ in range(4 * CONCURRENT)]
    for each in workers:
        each.start()
    began = time.monotonic()
    for number in range(int(SECONDS * rate)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        due.put(True)
        if time.monotonic() > began + len(memory) / 2:
            memory.append(process.memory_info().rss)
    for _ in workers:
        due.put(False)
    for each in workers:
        each.join()
    return load, memory


@pytest.mark.campaign
def test_it_holds_at_four_times_its_capacity(made_once: Path, tmp_path: Path) -> None:
    with program(made_once, tmp_path / "log") as (client, process):
        able = capacity(client)
        load, memory = arrivals(client, TIMES * able, process)
        assert client("GET", "/ready").status == 200
    answered = sorted(load.seconds["200"])
    p50, p99 = statistics.median(answered), answered[int(0.99 * len(answered))]
    third = len(memory) // 3
    early, late = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
    told = {
        "capacity_per_s": round(able, 1),
        "asked": load.statuses.total(),
        "statuses": dict(load.statuses),
        "p50_s": round(p50, 3),
        "p99_s": round(p99, 3),
        "refused_p99_s": round(
            sorted(load.seconds.get("429", [0.0]))[int(0.99 * load.statuses["429"]) - 1], 3
        ),
        "memory_mb": [round(each / 1e6, 1) for each in (early, late)],
    }
    if path := os.environ.get("LOAD_TABLE"):
        Path(path).write_text(json.dumps(told) + "\n")
    assert set(load.statuses) <= {"200", "429", "503"}, told
    assert load.statuses["429"] > 0, "it was more than the server can do"
    assert p99 <= LIMIT_S, told
    assert late <= 1.02 * early, told
