"""Several processes that train one model: torch.distributed behind the face of `Ranks`.

    ranks, device = meet(config.train, "cuda")

Numbers and decisions of the host go through gloo, gradients of a GPU through NCCL, so that agreeing on
something never waits for a device.
"""

from __future__ import annotations

import atexit
import datetime
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchstone._errors import EnvironmentProblem, TorchstoneError, UsageError
from torchstone._seeds import seed_everything
from torchstone.data.part import Part
from torchstone.train.config import LoopConfig
from torchstone.train.device import choose_device
from torchstone.train.devices import processes_to_launch, require_world
from torchstone.train.rank_place import RankPlace, rank_place
from torchstone.train.ranks import ALONE, Ranks, Spread

T = TypeVar("T")
PATIENCE = datetime.timedelta(minutes=30)
"""How long a rank waits for the others: rank 0 may be drawing, or waiting for room on a disk."""


class PeerLost(TorchstoneError):
    """Another rank is gone, so that what all make together cannot be made."""


class Group(Ranks):
    """This process among others, joined through torch.distributed."""

    def __init__(self, place: RankPlace) -> None:
        self.rank, self.world = place.rank, place.world
        self._parent = os.getppid()
        self._no_sync: Callable[[], AbstractContextManager[None]] | None = None

    @property
    def part(self) -> Part:
        return Part(self.rank, self.world)

    def total(self, count: int) -> int:
        return int(self._reduced(torch.tensor([count]), dist.ReduceOp.SUM)[0])

    def most(self, wish: int) -> int:
        if os.getppid() != self._parent:  # who started us was killed, and nobody would end us
            wish = max(wish, int(signal.SIGTERM))
        return int(self._reduced(torch.tensor([wish]), dist.ReduceOp.MAX)[0])

    def sums(self, measured: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        names = [(place, name) for place, each in enumerate(measured) for name in each]
        if not names:
            return measured
        values = [measured[place][name].detach() for place, name in names]
        exact = any(value.dtype == torch.float64 for value in values)
        together = torch.stack([value.double() if exact else value.float() for value in values])
        reduced = self._reduced(together, dist.ReduceOp.SUM).unbind()
        summed: list[dict[str, Tensor]] = [{} for _ in measured]
        for (place, name), value in zip(names, reduced, strict=True):
            summed[place][name] = value
        return summed

    def reduce_gradients_with(self, no_sync: Callable[[], AbstractContextManager[None]]) -> None:
        """Who sums the gradients (DDP) and how it is told to wait."""
        self._no_sync = no_sync

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        if last or self._no_sync is None:
            return super().reducing(last)
        return self._no_sync()

    def from_main(self, make: Callable[[], T]) -> T:
        answer: Any = None
        if self.main:
            try:
                answer = (make(), None)
            except Exception as error:
                self._broadcast((None, _portable(error)))
                raise
        made, failure = self._broadcast(answer)
        if failure is not None:
            raise failure
        return made

    def gather(self, value: T) -> list[T]:
        gathered: list[Any] = [None] * self.world
        with _peers():
            dist.all_gather_object(gathered, value)
        return gathered

    @contextmanager
    def main_first(self) -> Iterator[None]:
        if not self.main:
            self._barrier()
        yield
        if self.main:
            self._barrier()

    def leave(self) -> None:
        self._barrier()

    def spread(self, module: nn.Module, strategy: str, device: torch.device, precision: str) -> Spread:
        from torchstone.train.spread import spread_over

        return spread_over(module, strategy, self, device, precision)

    def seed(self, seed: int, step: int) -> None:
        if self.main:
            seed_everything(seed)
        else:
            words = np.random.SeedSequence([seed, self.rank, step]).generate_state(2, np.uint64)
            seed_everything(int(words[0]))

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        with _peers():
            dist.all_reduce(values, operation)
        return values

    def _broadcast(self, value: Any) -> Any:
        box = [value]
        with _peers():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def _barrier(self) -> None:
        self.total(0)


def meet(loop: LoopConfig, device: str | None = None) -> tuple[Ranks, torch.device]:
    """The ranks that this process trains with, and its device. Who has met them before stays with them."""
    place = rank_place(os.environ)
    if place is None or place.world == 1:
        processes = processes_to_launch(loop, device)
        if processes > 1:
            raise UsageError(
                f"training on {processes} devices takes {processes} processes, and this one is alone",
                why=f"train.strategy = {loop.strategy}, train.devices = {loop.devices}",
                next=f"torchrun --nproc-per-node {processes} SCRIPT, or torchstone train",
            )
        return ALONE, choose_device(device)
    require_world(loop, place)
    own = device_of_rank(place, device)
    return (Group(place) if dist.is_initialized() else join(place, own)), own


def join(place: RankPlace, device: torch.device) -> Group:
    """Meet the other ranks; EnvironmentProblem says who was waited for and where."""
    os.environ.update(place.variables)
    atexit.register(_part)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise EnvironmentProblem(
            f"rank {place.rank} could not meet the other {place.world - 1}",
            where=f"{place.address}:{place.port} ({place.starter})",
            why=str(error).partition("\n")[0] or type(error).__name__,
            next="check that every rank was started and that this address can be reached from all machines",
        ) from error
    return Group(place)


def device_of_rank(place: RankPlace, name: str | None) -> torch.device:
    """The GPU with the rank's index on its machine, or the CPU."""
    if name not in (None, "cuda") or not torch.cuda.is_available():
        if name not in (None, "cpu"):
            raise EnvironmentProblem(
                f"--device {name} cannot be shared by several ranks", next="--device cuda, or cpu"
            )
        return torch.device("cpu")
    if place.local_rank >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"rank {place.rank} wants GPU {place.local_rank}, but there are {torch.cuda.device_count()}",
            where=f"environment variables of {place.starter}",
            next="start as many processes per machine as it has GPUs",
        )
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    """Failures of what all ranks make together, in words."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            "another rank is gone",
            why=str(error).partition("\n")[0] or type(error).__name__,
            next="see what that rank said; --resume auto goes on from the newest checkpoint",
        ) from error


def _portable(error: Exception) -> Exception:
    """An error that arrives at the other ranks, whatever it carries."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return TorchstoneError(f"{type(error).__name__}: {error}")
    return error
