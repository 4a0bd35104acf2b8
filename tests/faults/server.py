"""A process that has torch and torchstone loaded and forks trainers, so that killing one costs little.

Speaks JSON lines on stdin and stdout. A request is one `torchstone` command line and at most one fault; the
answer says how the child ended and which calls that change the disk it made. Its threads are held to one
and it trains once before it forks, so that children share everything that is loaded lazily.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from faults import calls, points, watch

LIMIT_S = 60.0
"""A child that takes longer hangs, and that is a fault of its own."""


def main() -> None:
    import json

    import torch

    torch.set_num_threads(1)
    from torchstone.cli.main import run

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("warm"):
            code = run(request["argv"])
            gc.collect()
            gc.freeze()  # a collection in a child would copy every page
            told: dict[str, Any] = {"code": code, "threads": len(list(Path("/proc/self/task").iterdir()))}
        elif "watch" in request:
            told = {"pid": fork_watcher(Path(request["watch"]), Path(request["report"]))}
        elif "end" in request:
            os.kill(request["end"], signal.SIGTERM)
            told = wait_for(request["end"])
        elif "wait" in request:
            told = wait_for(request["wait"])
        elif "continue" in request:
            os.kill(request["continue"], signal.SIGCONT)
            told = wait_for(request["continue"])
        else:
            told = train(request)
        print(json.dumps(told), file=answers, flush=True)


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a trainer, let the fault strike, and say how it ended."""
    fault: dict[str, Any] = request.get("fault") or {}
    watched = "io" in fault or request.get("trace", False)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            ours.close()
            code = child_main(request, fault, theirs if watched else None)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            os._exit(code)
    theirs.close()
    with ours:
        listener = socket.recv_fds(ours, 1, 1)[1][0] if watched else None
    try:
        if listener is not None:
            return watch_calls(child, listener, request["base"], fault, request.get("trace", False))
        if "after_s" in fault:
            if not ended_within(child, fault["after_s"]):
                os.kill(child, signal.Signals[fault["signals"][0]])
            return wait_for(child)
        if fault.get("what") == "stop":
            status = os.waitpid(child, os.WUNTRACED)[1]
            return {"pid": child, "stopped": os.WIFSTOPPED(status)}
        return wait_for(child)
    finally:
        if listener is not None:
            os.close(listener)


def child_main(request: dict[str, Any], fault: dict[str, Any], hand_over: socket.socket | None) -> int:
    from torchstone.cli.main import run

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ.update(request.get("env") or {})
    inside = fault.get("with", fault)  # `with`: one fault in the model beside one at a call
    if "place" in inside:
        points.plan(points.Strike(**inside))
    if "file_limit" in fault:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_limit"], fault["file_limit"]))
    if hand_over is not None:
        listener = calls.listen()
        socket.send_fds(hand_over, [b"x"], [listener])
        os.close(listener)
        hand_over.close()
    return run(request["argv"])


def fork_watcher(folder: Path, report: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            watch.main(folder, report)
        finally:
            os._exit(0)
    return child


def watch_calls(child: int, listener: int, base: str, fault: dict[str, Any], trace: bool) -> dict[str, Any]:
    """Answer the child's calls; at the `count`-th of those that are called `io`, strike."""
    seen: list[str] = []
    counts: Counter[str] = Counter()
    struck, number, left = "", 0, fault.get("kill_after", -1)
    done = os.pidfd_open(child)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(done, select.POLLIN)
    began = time.monotonic()
    try:
        while True:
            ready = dict(poll.poll(1000))
            if time.monotonic() - began > LIMIT_S:
                os.kill(child, signal.SIGKILL)
                return wait_for(child) | {"hung": True, "struck": struck}
            if ready.get(listener, 0) & select.POLLIN:
                call = calls.next_call(listener)
                if call is None:
                    continue
                label = label_of(call, base)
                error = 0
                if label:
                    counts[label] += 1
                    number += 1
                    left = left - 1 if struck else left
                    if trace:
                        seen.append(label)
                    if struck and (label == fault.get("kill_at") or left == 0):
                        os.kill(child, signal.SIGKILL)
                        continue  # an answer could overtake the kill, and the call would happen
                    wanted = fault.get("io")
                    if wanted == label and is_due(counts[wanted], fault):
                        struck = label
                        error = strike(child, fault)
                        if "SIGKILL" in fault.get("signals", ()):
                            continue
                calls.answer(listener, call, error)
            elif done in ready:
                return wait_for(child) | {"struck": struck, "trace": seen, "calls": number}
    finally:
        os.close(done)


def is_due(count: int, fault: dict[str, Any]) -> bool:
    return count >= fault["count"] if fault.get("from_then_on") else bool(count == fault["count"])


def strike(child: int, fault: dict[str, Any]) -> int:
    """Do what the fault says; the error that the call shall end with."""
    if "errno" in fault:
        return int(fault["errno"])
    for name in fault["signals"]:
        os.kill(child, signal.Signals[name])
    return 0


def label_of(call: calls.Call, base: str) -> str:
    """`fsync one/checkpoints/step-N`; empty for what is not the run's."""
    path = call.path.removesuffix(" (deleted)")
    if not path.startswith(base + "/"):
        return ""
    plain = re.sub(r"\.tmp\w+", ".tmpX", path.removeprefix(base + "/"))
    return f"{call.name} {re.sub('[0-9]+', 'N', plain)}"


def ended_within(child: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def wait_for(child: int) -> dict[str, Any]:
    hung = not ended_within(child, LIMIT_S)
    if hung:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    told: dict[str, Any] = {"code": os.waitstatus_to_exitcode(status)}
    told["cpu_s"] = usage.ru_utime + usage.ru_stime
    return told | ({"hung": True} if hung else {})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
