"""Run a job with a stranger's model in a process of its own, and let nothing out but its JSON answer.

    result = run_isolated("torchstone.checks.run:job", {"target": "gist:..."}, folder)

The code of the target is brought into `folder` first (as data), then a clean Python starts with an empty
environment, raises what walls this machine offers (`walls.py`), and runs the job (`worker.py`). The result
names the protections that held and those that are missing; which ones those are depends on the machine.
A GPU is never passed in.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import site
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from torchstone import _errors
from torchstone._errors import ModelError, TorchstoneError, UntrustedCode
from torchstone.adapt.stage import Staged, bring_inside, place_of

# Loaded before the walls of memory and the watchman, so that only the job's own steps are judged.
PRELOAD = ("torch", "numpy", "safetensors.torch", "torchstone.adapt.load")

_ONCE = (
    "import json, sys; told = json.loads(sys.stdin.buffer.readline()); sys.path[:] = told['python_path']; "
    "from torchstone.adapt.worker import main; main(told)"
)
_SERVE = (
    "import json, sys; told = json.loads(sys.stdin.buffer.readline()); sys.path[:] = told['python_path']; "
    "from torchstone.adapt.worker import serve; serve(told['preload'])"
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the worker may use."""

    wall_s: float = 600.0
    """Seconds until it is ended."""
    cpu_s: int = 1200
    """Seconds of CPU, per process."""
    memory_bytes: int = 8 * 2**30
    """Address space beyond the libraries, per process; resident memory of all its processes together."""
    file_bytes: int = 2 * 2**30
    """Largest file."""
    folder_bytes: int = 4 * 2**30
    """All files in its folder together."""
    processes: int = 64
    """Processes and threads."""
    open_files: int = 256
    result_bytes: int = 16 * 2**20
    """Size of the JSON answer."""
    log_bytes: int = 2**20
    """What is kept of its output."""


@dataclass(frozen=True)
class IsolatedResult:
    """The answer of the job, and what stood between it and this machine."""

    value: dict[str, Any]
    held: tuple[str, ...]
    missing: tuple[str, ...]
    blocked: tuple[str, ...] = ()
    log: str = ""


def run_isolated(
    job: str,
    arguments: Mapping[str, Any],
    folder: Path,
    limits: Limits | None = None,
    *,
    workers: PreloadedWorkers | None = None,
) -> IsolatedResult:
    """Run `job` ("package.module:function", JSON in and out) on `arguments`; it may write in `folder` only.

    An argument called `target` is read as a TARGET and its code brought into the folder. Raises
    `UntrustedCode` when the code tried something forbidden, and the job's own error, or `ModelError` when
    the worker crashed or passed a limit.
    """
    limits = limits or Limits()
    folder = Path(folder).resolve()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    arguments = dict(arguments)
    name = str(arguments.get("target") or job)
    staged = Staged("")
    if isinstance(arguments.get("target"), str):
        staged = bring_inside(arguments["target"], folder)
        arguments["target"] = staged.target
    request = _Request(job, arguments, folder, limits, staged)
    try:
        answer = workers.ask(request) if workers else _ask_once(request)
    finally:
        tidy(folder)
    return _judge(answer, name, limits)


@dataclass(frozen=True)
class _Request:
    """One question to the worker; the token comes anew with each."""

    job: str
    arguments: dict[str, Any]
    folder: Path
    limits: Limits
    staged: Staged
    token: str = field(default_factory=lambda: secrets.token_hex(32))

    def line(self) -> bytes:
        path = _python_path()
        home = place_of(self.job.partition(":")[0])
        told = {
            "job": self.job,
            "arguments": self.arguments,
            "folder": str(self.folder),
            "limits": asdict(self.limits),
            "readable": [*map(str, self.staged.readable), str(home), *path, *_python_folders()],
            "token": self.token,
            "python_path": [*path, str(home.parent), *map(str, self.staged.importable)],
            "preload": list(PRELOAD),
            "environment": environment(self.folder),
        }
        return json.dumps(told).encode() + b"\n"


def environment(folder: Path) -> dict[str, str]:
    """All that the worker finds in its environment; nothing else is inherited."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(min(os.cpu_count() or 1, 8))
    given = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return given | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "USER": "torchstone",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }


def _python_path() -> list[str]:
    """Where libraries are found. A folder of the user's that happens to be importable is not handed on."""
    interpreter = (sys.prefix, sys.exec_prefix, sys.base_prefix)
    inside = [
        each
        for each in sys.path
        if Path(each).exists()
        and (each.startswith(tuple(f"{root}{os.sep}" for root in interpreter)) or each in _site_folders())
    ]
    needed = [str(place_of(name).parent) for name in ("torchstone", "torch")]
    return list(dict.fromkeys([*inside, *needed]))


def _site_folders() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]


def _python_folders() -> list[str]:
    named = [sys.prefix, sys.exec_prefix, *(sysconfig.get_paths()[each] for each in ("stdlib", "platlib"))]
    # The interpreter's own library folder, rather than all that lies beside it (which may be /usr or a home).
    return list(dict.fromkeys([*named, str(Path(sys.base_prefix) / "lib")]))


def _ask_once(request: _Request) -> dict[str, Any]:
    with _start(_ONCE, request.folder) as process:
        try:
            out, problem = process.communicate(request.line(), timeout=request.limits.wall_s + 60)
        except subprocess.TimeoutExpired:
            _end(process)
            return {
                "stopped": "its launcher did not answer",
                "held": [],
                "missing": [],
                "blocked": [],
                "log": "",
            }
    return _answer(out, problem)


def _start(program: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(folder),
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(out: bytes, problem: bytes = b"") -> dict[str, Any]:
    if not out.strip():
        raise ModelError(
            "the isolated worker could not be started",
            why=printable(
                problem.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            )[0],
        )
    answer: dict[str, Any] = json.loads(out)
    return answer


class PreloadedWorkers:
    """Workers forked from one process that has the libraries loaded: for many small jobs in a row.

    The walls of each are those of a worker started alone; only the start of Python is shared.
    """

    def __init__(self, folder: Path, preload: tuple[str, ...] = PRELOAD) -> None:
        self._folder, self._preload = folder, preload

    def __enter__(self) -> PreloadedWorkers:
        self._process = _start(_SERVE, self._folder)
        hello = {"python_path": _python_path(), "preload": list(self._preload)}
        self._send(json.dumps(hello).encode() + b"\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            _end(self._process)

    def ask(self, request: _Request) -> dict[str, Any]:
        self._send(request.line())
        assert self._process.stdout is not None
        return _answer(self._process.stdout.readline())

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


# --- judging what came back ------------------------------------------------------------------------------


def _judge(answer: Mapping[str, Any], name: str, limits: Limits) -> IsolatedResult:
    """The result, or the error that the answer stands for."""
    blocked = tuple(printable([str(each) for each in answer["blocked"]]))
    log = printable([str(answer.get("log", ""))])[0]
    if blocked:
        raise UntrustedCode(
            f"{name} tried to {blocked[0]}, and was stopped",
            why="; ".join(f"it tried to {each}" for each in blocked[1:6]),
            next="do not run it outside the isolated worker",
        )
    if "stopped" in answer:
        raise ModelError(f"{name} was ended: {answer['stopped']}", why=_last_line(log))
    if "error" in answer:
        raise _error(answer["error"], name, limits)
    if "result" not in answer:
        raise ModelError(f"{name} {_how_it_ended(int(answer.get('exit', 0)))}", why=_last_line(log))
    if not isinstance(answer["result"], dict):
        raise ModelError(f"the answer about {name} is no JSON object")
    return IsolatedResult(
        clean(answer["result"]), tuple(answer["held"]), tuple(answer["missing"]), blocked, log
    )


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "was ended: it used more CPU time than the limit"
    if code < 0:
        return f"crashed its process ({signal.Signals(-code).name})"
    return f"ended its process without an answer (exit code {code})"


def _error(told: Any, name: str, limits: Limits) -> TorchstoneError:
    """The error of the job as ours; a stranger's words are kept, a stranger's exception class is not."""
    fields = {key: str(value) for key, value in told.items()} if isinstance(told, dict) else {}
    texts = {key: printable([fields.get(key, "")])[0][:2000] for key in ("what", "where", "why", "next")}
    kind = getattr(_errors, fields.get("error", ""), None)
    if "memory" in texts["what"] and ("allocate" in texts["what"] or fields.get("error") == "MemoryError"):
        return ModelError(
            f"{name} needs more memory than the worker may use ({limits.memory_bytes / 2**20:.0f} MiB)",
            where=texts["where"],
            why=texts["what"].splitlines()[0],
        )
    if isinstance(kind, type) and issubclass(kind, TorchstoneError) and kind is not _errors.Interrupted:
        return kind(texts["what"], where=texts["where"], why=texts["why"], next=texts["next"])
    said = f"{fields.get('error', 'an error')}: {texts['what']}".strip(": ")
    return ModelError(f"{name} raised {printable([said])[0]}", where=texts["where"])


def printable(texts: list[str]) -> list[str]:
    """Text without control characters: a stranger's words must not steer the terminal."""
    return [
        "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text) for text in texts
    ]


def clean(value: Any) -> Any:
    """A JSON value with all its texts made printable."""
    if isinstance(value, str):
        return printable([value])[0]
    if isinstance(value, list):
        return [clean(each) for each in value]
    if isinstance(value, dict):
        return {printable([str(key)])[0]: clean(each) for key, each in value.items()}
    return value


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"its last words: {lines[-1][:300]}" if lines else ""


def tidy(folder: Path) -> None:
    """Leave plain files and folders of the caller: no links, no devices, no rights beyond the usual."""
    user, group = os.geteuid(), os.getegid()
    with contextlib.suppress(OSError):
        (folder / ".root").rmdir()  # where the worker's own root was mounted
    for place, folders, files in os.walk(folder, topdown=True):
        for name in [*folders, *files]:
            path = Path(place, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                path.unlink()
                continue
            if user == 0:
                os.lchown(path, user, group)
            path.chmod(0o700 if stat.S_ISDIR(mode) else 0o600)
    if user == 0:
        os.lchown(folder, user, group)
