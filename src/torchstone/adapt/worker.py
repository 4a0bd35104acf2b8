"""The far side of `isolate.py`: a launcher that supervises, and the worker in which a stranger's code runs.

The launcher runs no stranger's code. It forks the worker, reads its two pipes with bounded appetite, ends
it when a limit is passed, and answers the caller with one JSON object. The worker raises its walls, loads
the libraries, sets the watchman, runs the job, signs its result and leaves by `os._exit`, so that no exit
handler, thread or destructor of the stranger gets a turn. Frames on the result pipe are signed with a key
that came by standard input; what is not signed is counted as an attempt to forge. Memory and threads of
the worker and its children are counted through Linux's /proc; where there is none, they are not.

The signature tells our frames from a stray print. It cannot make a verdict true: code that shares a
process with the judge can lie to him. What isolation promises is that nothing but the answer comes out.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import hmac
import importlib
import json
import os
import selectors
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torchstone.adapt import walls as building
from torchstone.adapt import watch
from torchstone.adapt.walls import Walls

_TICK_S = 0.05
_CHUNK = 1 << 16
_MOST_ATTEMPTS = 20


def main(request: dict[str, Any]) -> None:
    """Run one request and write the answer to standard output."""
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # a library that was preloaded may have asked before TMPDIR was known
    sys.path[:] = request["python_path"]
    answer = serve_one(request)
    with os.fdopen(os.dup(1), "wb") as out:
        out.write(json.dumps(answer).encode() + b"\n")


def serve(preload: list[str]) -> None:
    """Load the libraries once, then run one request per line of standard input, each in a fork of its own."""
    for each in preload:
        importlib.import_module(each)
    for line in sys.stdin.buffer:
        launcher = os.fork()
        if launcher == 0:
            main(json.loads(line))
            os._exit(0)
        os.waitpid(launcher, 0)


def serve_one(request: dict[str, Any]) -> dict[str, Any]:
    """Fork the worker for `request`, watch over it, and say how it went."""
    building.die_with_parent()
    building.adopt_orphans()
    walls = Walls()
    building.own_processes(walls)
    building.die_with_parent()  # the user name space cleared it
    results, results_in = os.pipe()
    words, words_in = os.pipe()
    child = os.fork()
    if child == 0:
        _worker(request, walls, results_in, words_in)
    os.close(results_in)
    os.close(words_in)
    return _Supervisor(request, child, results, words).watch()


# --- the launcher ----------------------------------------------------------------------------------------


@dataclass
class _Supervisor:
    """Reads what the worker sends, and ends it when it passes a limit."""

    request: dict[str, Any]
    child: int
    results: int
    words: int
    answer: dict[str, Any] = field(default_factory=lambda: {"held": [], "missing": [], "blocked": []})
    pending: bytes = b""
    received: int = 0
    log: bytes = b""
    log_cut: bool = False

    def watch(self) -> dict[str, Any]:
        limits = self.request["limits"]
        deadline = time.monotonic() + limits["wall_s"]
        next_look = 0.0
        with selectors.DefaultSelector() as ready:
            for pipe in (self.results, self.words):
                os.set_blocking(pipe, False)
                ready.register(pipe, selectors.EVENT_READ)
            status = None
            while status is None:
                for key, _ in ready.select(_TICK_S):
                    self._read(key.fd)
                now = time.monotonic()
                if now > deadline:
                    self._end(f"it did not finish within {limits['wall_s']:g} s")
                elif now > next_look:
                    next_look = now + 5 * _TICK_S
                    self._look_at_use(limits)
                status = self._ended()
        for pipe in (self.results, self.words):
            self._read(pipe)
            os.close(pipe)
        self._end_all()
        self.answer["exit"] = status
        text = self.log.decode("utf-8", "replace")
        self.answer["log"] = text + ("\n... (the rest was cut)" if self.log_cut else "")
        return self.answer

    def _ended(self) -> int | None:
        try:
            pid, status = os.waitpid(self.child, os.WNOHANG)
        except ChildProcessError:
            return 0
        return os.waitstatus_to_exitcode(status) if pid else None

    def _end(self, reason: str) -> None:
        self.answer.setdefault("stopped", reason)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)

    def _end_all(self) -> None:
        """Whoever is left (no process name space): they became our children, so they can be found."""
        while True:
            left = _children()
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _read(self, pipe: int) -> None:
        for _ in range(64):  # a flood on one pipe must not keep us from the clock
            try:
                data = os.read(pipe, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            if pipe == self.words:
                self._hear(data)
            else:
                self._receive(data)

    def _hear(self, data: bytes) -> None:
        room = int(self.request["limits"]["log_bytes"]) - len(self.log)
        self.log += data[: max(room, 0)]
        self.log_cut = self.log_cut or len(data) > room

    def _receive(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self.request["limits"]["result_bytes"]:
            self.pending = b""
            self._end("its result is larger than the limit")
            return
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            self._frame(line)

    def _frame(self, line: bytes) -> None:
        body = opened(line, self.request["token"])
        if body is None:
            self._block("forge a result")
        elif body["kind"] == "blocked":
            self._block(str(body["value"]))
        elif body["kind"] == "walls":
            self.answer["held"], self.answer["missing"] = body["value"]["held"], body["value"]["missing"]
        elif "result" not in self.answer and "error" not in self.answer:
            self.answer[body["kind"]] = body["value"]

    def _block(self, attempt: str) -> None:
        blocked = self.answer["blocked"]
        if attempt not in blocked and len(blocked) < _MOST_ATTEMPTS:
            blocked.append(attempt)

    def _look_at_use(self, limits: dict[str, float]) -> None:
        if _disk_use(self.request["folder"]) > limits["folder_bytes"]:
            self._end(f"it wrote more than {limits['folder_bytes'] / 2**20:.0f} MiB")
        resident_bytes, threads = _use_of(self.child)
        if threads > 2 * limits["processes"]:  # where the kernel's own limit holds, this is never reached
            self._end(f"it started more than {limits['processes']} processes and threads")
        if resident_bytes > limits["memory_bytes"] + 2**30:
            self._end(f"it used more than {limits['memory_bytes'] / 2**20:.0f} MiB of memory")


def _children(pid: int | str = "self") -> list[int]:
    """Direct children of `pid`, whichever of its threads started them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(each) for each in (task / "children").read_text().split()]
    return found


def _use_of(pid: int) -> tuple[int, int]:
    """Resident bytes and threads of a process and its descendants together."""
    resident_bytes, threads, ahead = 0, 0, [pid]
    while ahead and threads < 10_000:
        each = ahead.pop()
        with contextlib.suppress(OSError, IndexError, ValueError):
            resident_bytes += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGESIZE"
            )
            threads += sum(1 for _ in Path(f"/proc/{each}/task").iterdir())
        ahead += _children(each)
    return resident_bytes, threads


def _disk_use(folder: str) -> int:
    """Bytes under `folder`, links not followed; a tree too large to walk counts as too large."""
    total = 0
    for number, (place, _, names) in enumerate(os.walk(folder)):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{place}/{name}").st_blocks * 512
        if number > 20_000:
            return 1 << 62
    return total


# --- signed frames ---------------------------------------------------------------------------------------


def sealed(body: dict[str, Any], token: str) -> bytes:
    """One line: the signature, a space, the JSON."""
    text = json.dumps(body).encode()
    return hmac.new(token.encode(), text, hashlib.sha256).hexdigest().encode() + b" " + text + b"\n"


def opened(line: bytes, token: str) -> dict[str, Any] | None:
    """The body of a line that carries our signature, else None."""
    signature, _, text = line.partition(b" ")
    expected = hmac.new(token.encode(), text, hashlib.sha256).hexdigest().encode()
    if not hmac.compare_digest(signature, expected):
        return None
    body = json.loads(text)
    return body if isinstance(body, dict) and {"kind", "value"} <= body.keys() else None


# --- the worker ------------------------------------------------------------------------------------------


def _worker(request: dict[str, Any], walls: Walls, results: int, words: int) -> NoReturn:
    """Everything from here on ends in `os._exit`, whatever a stranger's code does to the way back."""
    leave, write = os._exit, os.write
    try:
        send = _sender(results, request.pop("token"), write)
        _only_our_pipes(results, words)
        sys.dont_write_bytecode = True
        folder, readable = Path(request["folder"]), [Path(each) for each in request["readable"]]
        os.chdir(folder)
        building.close_in(walls, folder, readable)
        if not any("process namespace" in each for each in walls.held):
            os.setsid()
        function = _load_job(request["job"], request["preload"])
        building.limit(walls, request["limits"])
        building.give_up_rights(walls, folder, readable, int(request["limits"]["processes"]))
        walls.held += ["clean environment", "time limit", "disk limit", "watchman (audit hook)"]
        send("walls", {"held": walls.held, "missing": walls.missing})
        watch.install(
            folder,
            [*readable, *(Path(each) for each in building.SYSTEM_FOLDERS)],
            lambda attempt: send("blocked", attempt),
            installed_at=[each for each in readable if each != folder],
        )
        send(*_run(function, request["arguments"]))
    except BaseException:
        with contextlib.suppress(BaseException):
            write(2, traceback.format_exc().encode())
        leave(70)
    leave(0)


def _sender(results: int, token: str, write: Callable[[int, bytes], int]) -> Callable[[str, Any], None]:
    def send(kind: str, value: Any) -> None:
        frame = memoryview(sealed({"kind": kind, "value": value}, token))
        while frame:
            frame = frame[write(results, bytes(frame)) :]

    return send


def _only_our_pipes(results: int, words: int) -> None:
    """Standard input is empty, both outputs go to the log, and no other file of ours stays open."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(words, 1)
    os.dup2(words, 2)
    os.closerange(3, results)
    os.closerange(results + 1, os.sysconf("SC_OPEN_MAX"))


def _load_job(name: str, preload: list[str]) -> Callable[..., Any]:
    for each in preload:
        importlib.import_module(each)
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    gc.collect()
    return function


def _run(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[str, Any]:
    from torchstone._errors import TorchstoneError

    try:
        value = function(**arguments)
        json.dumps(value)
        return "result", value
    except TorchstoneError as problem:
        return "error", problem.to_dict()
    except BaseException as problem:
        frames = traceback.extract_tb(problem.__traceback__, limit=-1)
        where = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
        return "error", {"error": type(problem).__name__, "what": str(problem)[:2000], "where": where}
