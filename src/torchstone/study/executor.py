"""Where cells run: processes of this machine, a Ray cluster, a Slurm site. One small face for all.

    executor = open_executor("local", jobs=2)
    running = executor.start(order)               # at once, or a Wait
    running.outcome()                             # None while it works
    running.stop(signal.SIGUSR1)                  # save and end

Nothing here schedules: the runner hands out one order per free slot, and across machines Ray or Slurm decide
where it goes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from torchstone._errors import UsageError
from torchstone.data.encoding import num_cores
from torchstone.study.cell_job import leave_with_parent, logged, work
from torchstone.study.slots import Gpu, Wait, place_on, place_on_host, read_gpus, visible
from torchstone.tracking.store import Store
from torchstone.train.signals import WATCHED

Order = Mapping[str, Any]
PRELOADED = [
    "torch._dynamo",
    "torchstone.adapt.adapter",
    "torchstone.adapt.facts",
    "torchstone.adapt.load",
    "torchstone.adapt.task_guess",
    "torchstone.optim.registry",
    "torchstone.study.cell_job",
    "torchstone.tracking.store",
    "torchstone.train.fit",
    "torchstone.train.run",
    "torchstone.train.text",
]
"""What the server that cells are forked from has loaded: starting one takes a tenth of a second, not two."""


class Running(Protocol):
    """A cell that was started."""

    def outcome(self) -> dict[str, Any] | None:
        """How it ended, as `work` tells it; None while it works. `died`: it could not tell."""

    def stop(self, number: signal.Signals) -> None:
        """Ask it to save and end; asking twice does no harm."""


class Executor(Protocol):
    """Starts cells."""

    slots: int
    """Cells at a time."""
    shares_store: bool
    """Whether cells may write to the runner's own store; else each keeps one in its folder."""

    def start(self, order: Order) -> Running | Wait:
        """Begin a cell, or say what it must wait for."""

    def close(self) -> None:
        """Whatever still runs is ended."""


def open_executor(where: str, *, jobs: int | None = None, device: str | None = None) -> Executor:
    """`local`, `slurm` or `ray://HOST:PORT` (`ray` begins a cluster of this machine)."""
    if where == "local":
        return LocalExecutor(jobs, device)
    if where == "ray" or where.startswith("ray://"):
        from torchstone.study.ray_executor import RayExecutor

        return RayExecutor(None if where == "ray" else where, jobs, device)
    if where in ("slurm", "slurm:local"):
        from torchstone.study.slurm_executor import SlurmExecutor

        return SlurmExecutor(jobs, device, cluster="local" if where.endswith("local") else "slurm")
    raise UsageError(f"cells cannot be run on {where!r}", next="--on local, slurm, ray or ray://HOST:PORT")


def refuse_to_send_secrets(store: Store, where: str) -> None:
    """Cells on other machines are told the address of the store, and their orders may lie on a disk."""
    if where != "local" and store.has_password:
        raise UsageError(
            "the address of the store holds a password",
            where=store.where,
            why=f"cells that run on {where} would be given it",
            next="put the password into ~/.pgpass there and here, and take it out of TORCHSTONE_STORE",
        )


class LocalExecutor:
    """Processes of this machine: by default one at a time, or one for each GPU.

    A cell sees the one GPU that it got, through CUDA_VISIBLE_DEVICES, and finds it as `cuda:0`.
    """

    shares_store = True

    def __init__(
        self, jobs: int | None = None, device: str | None = None, *, start_method: str = "forkserver"
    ) -> None:
        self._chooses = device is None
        gpus = self._gpus()
        self.devices = devices_of(device) if not gpus else ["cuda:0"] * len(gpus)
        self.slots = jobs or len(self.devices)
        self._each = -(-self.slots // max(1, len(gpus)))
        on_cpu = all(each is None or each == "cpu" for each in self.devices)
        self._threads = max(1, num_cores() // self.slots) if self.slots > 1 and on_cpu else None
        self._context: Any = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            self._context.set_forkserver_preload(PRELOADED)
        self._started: list[LocalRunning] = []

    def start(self, order: Order) -> LocalRunning | Wait:
        self._started = [each for each in self._started if each.process.is_alive()]
        place = self._place(order.get("memory_bytes") or 0)
        if isinstance(place, Wait):
            return place
        whole = {"device": place.device, "visible": place.uuid, "threads": self._threads} | dict(order)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_in_child, args=(whole, theirs), daemon=False)
        process.start()
        theirs.close()
        self._started.append(LocalRunning(process, ours, place))
        return self._started[-1]

    def _gpus(self) -> list[Gpu]:
        """Those to choose from, as they are now."""
        return visible(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")) if self._chooses else []

    def _place(self, need: int) -> Place | Wait:
        import psutil

        gpus, held = self._gpus(), [each.place for each in self._started]
        if gpus:
            found = place_on(gpus, [(each.uuid or "", each.need) for each in held], need, self._each)
            return found if isinstance(found, Wait) else Place("cuda:0", found.uuid, need)
        wait = place_on_host(psutil.virtual_memory().available, len(held), need)
        used = [each.device for each in held]
        return wait or Place(min(self.devices, key=used.count), None, need)

    def close(self) -> None:
        for each in self._started:
            if each.process.is_alive():
                each.process.kill()
            each.process.join()


@dataclass(frozen=True)
class Place:
    """What a cell got: a device, the one GPU that it sees, and the memory that it is forecast to take."""

    device: str | None
    uuid: str | None
    need: int


class LocalRunning:
    def __init__(self, process: Any, pipe: Connection, place: Place) -> None:
        self.process = process
        self.place = place
        self._pipe = pipe
        self._outcome: dict[str, Any] | None = None

    def outcome(self) -> dict[str, Any] | None:
        if self._outcome is None:
            if self._pipe.poll():
                try:
                    self._outcome = self._pipe.recv()
                except (EOFError, OSError):
                    self.process.join()
            if self._outcome is None and not self.process.is_alive():
                self._outcome = died(self.process.exitcode)
            if self._outcome is not None:
                self.process.join()
                self._pipe.close()
        return self._outcome

    def stop(self, number: signal.Signals) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)


def died(exit_code: int | None) -> dict[str, Any]:
    """The outcome of a process that told none."""
    how = (
        f"of {signal.Signals(-exit_code).name}"
        if exit_code and exit_code < 0
        else f"with exit code {exit_code}"
    )
    return {"status": "died", "exit_code": exit_code or 1, "result": None,
            "error": {"what": f"the process of the cell ended {how}"}}  # fmt: skip


def _in_child(order: Order, pipe: Connection) -> None:
    os.setsid()  # Ctrl-C in the terminal is the runner's, which passes it on
    for each in WATCHED:  # a runner that forks leaves us its handlers, which only take note
        signal.signal(each, signal.SIG_DFL)
    leave_with_parent()
    if order.get("visible"):
        os.environ["CUDA_VISIBLE_DEVICES"] = order["visible"]  # before CUDA is first asked for
    with logged(Path(order["run_dir"])):
        outcome = work(order)
    pipe.send(outcome)
    pipe.close()


def devices_of(device: str | None) -> Sequence[str | None]:
    """One per slot: every GPU if there are some and none was named."""
    if device is not None:
        return [device]
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [None]
