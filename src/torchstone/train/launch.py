"""One command becomes several training processes: torchrun starts them, and this process waits for them.

    launcher  ── torchrun's agent ──  rank 0   the command itself; shows, saves and writes rows
       signals ─────────────────────> rank 1   silent
                                      ...

Every rank runs the command line that the user typed; finding torchrun's variables, it trains instead of
launching. Ranks tell how they ended in a folder of this launch, so that a run which stopped in order is not
taken for a failure, and a failure names its rank. Processes of other starters (torchrun by hand, SLURM)
come here too, and are left alone.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torchstone._errors import Interrupted, TorchstoneError
from torchstone._files import read_json, write_json
from torchstone.train.rank_place import RankPlace, rank_place
from torchstone.train.signals import WATCHED, exit_code_of

FOLDER = "TORCHSTONE_LAUNCH"
"""Environment variable: where ranks tell the launcher how they ended."""
GRACE_S = 25
"""The agent kills what is left 30 s after the first failure; deaths later than this are its work."""


class RankFailed(TorchstoneError):
    """A process of the group failed, and the others were stopped."""


# --- the launcher -------------------------------------------------------------------------------


def launch(processes: int, arguments: Sequence[str], *, verbose: bool = False) -> int:
    """Run `torchstone ARGUMENTS` in so many ranks; the exit code of the whole, or RankFailed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import launch_agent

    folder = Path(tempfile.mkdtemp(prefix="torchstone-launch-"))
    _prepare_environment(folder, processes)
    if not verbose:
        logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
        # DDP warns of looking for unused parameters, which strange models have.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    config = _launch_config(folder, processes, verbose)
    try:
        with _passing_signals_on() as received:
            try:
                launch_agent(config, sys.executable, ["-m", "torchstone", *arguments])
            except ChildFailedError as error:
                if received:
                    raise interrupted(received[0], begun=True) from error
                raise _explained(error.failures, folder) from error
        return _exit_code(folder)
    finally:
        os.environ.pop(FOLDER, None)
        shutil.rmtree(folder, ignore_errors=True)


def _prepare_environment(folder: Path, processes: int) -> None:
    os.environ[FOLDER] = str(folder)
    # Restarted ranks would read the addresses of the dead ones in a shared store (pytorch#167288).
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # One machine talks to itself: its public name may not resolve, and a VPN may be in the way.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def _launch_config(folder: Path, processes: int, verbose: bool) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    others: Any = dict.fromkeys(range(1, processes), Std.ALL)
    logs = {"tee": others} if verbose else {"redirects": others}
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), **logs),
        log_line_prefix_template="[rank ${rank}] ",
        signals_to_handle="SIGQUIT",  # the others are passed on by us, unchanged
    )


@contextmanager
def _passing_signals_on() -> Iterator[list[signal.Signals]]:
    """Whatever would end this process goes to the ranks, which save and end; noted in the list."""
    import psutil

    received: list[signal.Signals] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(signal.Signals(number))
        reached = 0
        for child in psutil.Process().children():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                # Ranks lead sessions of their own; torch's other children do not.
                if os.getsid(child.pid) == child.pid and child.status() != psutil.STATUS_ZOMBIE:
                    child.send_signal(number)
                    reached += 1
        if not reached:
            raise interrupted(received[0], begun=False)

    before = {each: signal.signal(each, pass_on) for each in WATCHED}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)


def _exit_code(folder: Path) -> int:
    ended = folder / "end.json"
    return int(read_json(ended)["exit_code"]) if ended.is_file() else 0


def interrupted(received: signal.Signals, *, begun: bool) -> Interrupted:
    error = Interrupted(
        f"stopped by {received.name}",
        why="" if begun else "no training had begun",
        next="the same command with --resume auto goes on from the newest checkpoint, if there is one",
        signal_number=int(received),
    )
    error.exit_code = exit_code_of(received)
    return error


def _explained(failures: Mapping[int, Any], folder: Path) -> RankFailed:
    """The failure that came first, as an error that names its rank."""
    rank, failure = _root_cause(failures, folder)
    told = _report_of(folder, rank)
    if told is None and failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = "; the kernel does so when memory is short" if name == "SIGKILL" else ""
        return RankFailed(
            f"rank {rank} was ended by {name}{hint}",
            where=f"process {failure.pid}",
            why="the other ranks cannot go on without it and were stopped",
            next="the same command with --resume auto goes on from the newest checkpoint",
        )
    if told is None:
        return RankFailed(
            f"rank {rank} ended with exit code {failure.exitcode}",
            where=f"process {failure.pid}",
            why=_last_words(folder, failure.local_rank),
            next="the same command with -v shows what every rank says",
        )
    where = told["where"] if rank == 0 else f"rank {rank}" + (f", {told['where']}" if told["where"] else "")
    error = RankFailed(told["what"], where=where, why=told["why"], next=told["next"])
    error.exit_code = int(told["exit_code"])
    return error


def _root_cause(failures: Mapping[int, Any], folder: Path) -> tuple[int, Any]:
    """A death by a signal goes before the complaints of those who lost their peer; else the first report."""
    first = min(failure.timestamp for failure in failures.values())

    def order(item: tuple[int, Any]) -> tuple[int, float]:
        rank, failure = item
        told = _report_of(folder, rank)
        if told is not None:
            return 1, float(told["time"])
        died = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        return (0 if died and failure.timestamp - first < GRACE_S else 2), float(failure.timestamp)

    return min(failures.items(), key=order)


def _report_of(folder: Path, rank: int) -> dict[str, Any] | None:
    try:
        return read_json(folder / f"rank-{rank}.json")
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _last_words(folder: Path, local_rank: int) -> str:
    files = sorted((folder / "logs").glob(f"*/attempt_*/{local_rank}/stderr.log"))
    lines = files[-1].read_text(encoding="utf-8", errors="replace").strip().splitlines() if files else []
    return lines[-1] if lines else "it said nothing"


# --- the ranks ----------------------------------------------------------------------------------


class Rank:
    """How this process ends: by its own exit code, or by what it tells the launcher that started it."""

    def __init__(self, place: RankPlace | None, folder: Path | None) -> None:
        self._place, self._folder = place, folder
        self.exit_code = 0

    def ended(self, exit_code: int) -> None:
        """In order. A rank that was launched ends like a success, and rank 0 says what it was."""
        if self._folder is None or self._place is None:
            self.exit_code = exit_code
        elif self._place.main:
            write_json(self._folder / "end.json", {"exit_code": exit_code})

    def failed(self, error: Exception) -> bool:
        """Leave the error to the launcher, which prints it. False: nobody launched us."""
        if self._folder is None or self._place is None:
            return False
        ours = isinstance(error, TorchstoneError)
        told = error if ours else TorchstoneError(f"{type(error).__name__}: {error}")
        assert isinstance(told, TorchstoneError)
        self.exit_code = told.exit_code
        report = told.to_dict() | {"exit_code": told.exit_code, "time": time.time()}
        write_json(self._folder / f"rank-{self._place.rank}.json", report)
        return True


@contextmanager
def as_rank(*, verbose: bool = False, environ: Mapping[str, str] = os.environ) -> Iterator[Rank]:
    """Around the work of a process that may be a rank; its exit code is known afterwards."""
    rank = Rank(rank_place(environ), Path(environ[FOLDER]) if FOLDER in environ else None)
    try:
        yield rank
    except Exception as error:
        if not rank.failed(error):
            raise
        if verbose:
            traceback.print_exception(error)
