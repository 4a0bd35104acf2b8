"""A process that has torch loaded and has trained once; it forks runners of a study, to be killed.

Reads a JSON request per line, {"study", "base", "store", "kills": [{"since", "after_s", "whom"}]}, and
answers how the runner ended and what each kill struck. `since`: "start" counts from the first instant or from
the kill before, "cell" from the next moment in which a cell is at work. `whom`: the runner, one of its cells,
both at once, or two runners that share the work, one shortly after the other. Plans are made here, before the
fork: they follow from the file alone, and would be most of what a kill costs.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

LIMIT_S = 3600.0
SLOTS = 2


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from torchstone.study.cell_job import work

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            told: dict[str, Any] = {
                "status": work(request["warm"])["status"],
                "threads": threading.active_count(),
            }
            gc.collect()
            gc.freeze()
        else:
            told = run_and_kill(request)
        print(json.dumps(told), file=answers, flush=True)


def run_and_kill(request: dict[str, Any]) -> dict[str, Any]:
    import psutil

    plan_of(request["study"])
    kills, spent, began = request.get("kills", []), os.times(), time.monotonic()
    runners = [fork_runner(request) for _ in range(2 if kills and kills[-1]["whom"] == "two runners" else 1)]
    cells: list[psutil.Process] = []
    strikes = []
    for kill in kills:
        if kill["since"] == "cell":
            wait_for_a_cell(runners)
        if ended_within(runners[0], kill["after_s"]):
            break
        cells = [each for runner in runners for each in children(runner)]
        strike(kill["whom"], runners, [each.pid for each in cells], random.Random(kill["after_s"]))
        strikes.append({"whom": kill["whom"], "cells": len(cells)})
    codes = [end_of(each) for each in runners]
    _, alive = psutil.wait_procs(cells, timeout=60.0)
    now = os.times()
    return {
        "code": 0 if 0 in codes else max(codes, key=lambda code: code != -signal.SIGKILL),
        "orphans": len(alive),
        "strikes": strikes,
        "wall_s": time.monotonic() - began,
        "cpu_s": sum(now[:4]) - sum(spent[:4]),
    }


def fork_runner(request: dict[str, Any]) -> int:
    runner = os.fork()
    if runner == 0:
        code = 70
        try:
            code = run_study(request)
        finally:
            os._exit(code)
    return runner


def children(runner: int) -> list[Any]:
    """Its cells. psutil would read about every process of the machine."""
    import psutil

    found = []
    for each in Path(f"/proc/{runner}/task").glob("*/children"):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            found += [psutil.Process(int(pid)) for pid in each.read_text().split()]
    return found


def wait_for_a_cell(runners: list[int]) -> None:
    while not any(children(each) for each in runners):
        if ended_within(runners[0], 0.01):
            return


def strike(whom: str, runners: list[int], cells: list[int], rng: random.Random) -> None:
    victims = {"runner": runners, "cell": cells and [rng.choice(cells)], "both": [*runners, *cells]}
    for each in victims.get(whom, runners):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
        if whom == "two runners":
            ended_within(runners[-1], rng.uniform(0.0, 0.3))


def end_of(runner: int) -> int:
    if not ended_within(runner, LIMIT_S):
        os.kill(runner, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1])


@functools.cache
def plan_of(study: str) -> Any:
    from torchstone.study.plan import plan_study
    from torchstone.study.study_file import read_study

    return plan_study(read_study(study))


def run_study(request: dict[str, Any]) -> int:
    from torchstone.study.cells import Budget, enter, run_cells
    from torchstone.study.executor import LocalExecutor
    from torchstone.tracking.store import Store

    base = Path(request["base"])
    log = os.open(base / "runner.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    plan = plan_of(request["study"])
    with Store.open(request["store"]) as store:
        cells = enter(plan, store, base / "cells")
        fork_apart_from_renewals(cells.table)
        executor = LocalExecutor(SLOTS, "cpu", start_method="fork")
        return run_cells(cells, executor, Budget(), lease_s=5.0).exit_code


def fork_apart_from_renewals(table: Any) -> None:
    """A cell forked while a thread is inside SQLite would find its lock taken, by a thread that it lacks."""
    lock, renew = threading.Lock(), table.renew

    def renew_alone(*given: Any, **named: Any) -> Any:
        with lock:
            return renew(*given, **named)

    table.renew = renew_alone
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def ended_within(child: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.005)
    return False


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
