"""The same steps twice from the same seed: equal in every bit, or the first operation that differs.

Every operation that torch dispatches, forward and backward, leaves a checksum of what it gave, and so do the
weights at the end. A model that draws from a generator nobody seeds, a kernel that adds in changing order,
a batch that depends on the clock: each shows at the operation where it enters.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchstone._seeds import preserved_rng, seed_everything
from torchstone.optim.registry import build_optimizer
from torchstone.train.assembly import objective_of, pruner_of, update_of
from torchstone.train.device import bring
from torchstone.train.engine import windows
from torchstone.train.objective import PreparedBatches
from torchstone.train.precision import autocast_of, numerics
from torchstone.train.run import TrainJob, prepare, settled
from torchstone.train.running import running
from torchstone.train.step import Recipe, train_step
from torchstone.train.subject import Subject

UNDEFINED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
"""Operations whose values mean nothing before somebody writes them."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What two runs of the same steps have in common."""

    equal: bool
    steps: int
    operations: int
    """Compared, in one run."""
    deterministic: bool
    device: str
    step: int | None = None
    """Of the first difference."""
    module: str | None = None
    operation: str | None = None
    checksum: str = ""
    """Over all operations and the weights at the end, where they are equal."""

    @property
    def sentence(self) -> str:
        if self.equal:
            return (
                f"equal bits: {self.steps} steps twice on {self.device}, {self.operations:,} operations "
                f"and all weights compared (checksum {self.checksum})"
            )
        return (
            f"different bits: step {self.step}, {self.operation} in {self.module or 'the model'} "
            f"is the first operation that differs between two runs on {self.device}"
            + ("" if self.deterministic else "; --deterministic may help")
        )

    def to_dict(self) -> dict[str, Any]:
        return {"schema": "torchstone.certificate/1", **vars(self)}


def certify(job: TrainJob, steps: int) -> Certificate:
    """Take the first `steps` steps of a job twice, each from a model loaded anew; nothing is written."""
    job = settled(job)
    loop = job.settings.train
    with numerics(loop.precision, deterministic=loop.deterministic):
        first, device = _recorded(job, steps)
        second, _ = _recorded(job, steps)
    common = {"steps": steps, "deterministic": loop.deterministic, "device": device}
    odd = _first_difference(first, second)
    if odd is not None:
        return Certificate(
            equal=False,
            operations=len(first),
            step=odd.step,
            module=odd.module or None,
            operation=odd.operation,
            **common,
        )
    total = zlib.crc32("".join(f"{each.checksum:08x}" for each in first).encode())
    return Certificate(equal=True, operations=len(first), checksum=f"{total:08x}", **common)


def _first_difference(first: list[Trace], second: list[Trace]) -> Trace | None:
    for one, other in zip(first, second, strict=False):
        if one != other:
            return one
    if len(first) != len(second):
        longer = max(first, second, key=len)
        return longer[min(len(first), len(second))]
    return None


@dataclass(frozen=True, slots=True)
class Trace:
    """One operation: where it ran and what it gave."""

    step: int
    module: str
    operation: str
    checksum: int


def _recorded(job: TrainJob, steps: int) -> tuple[list[Trace], str]:
    with preserved_rng():
        subject = prepare(job)
        seed_everything(job.settings.train.random_seed)
        bring(subject.module, subject.device)
        subject.module.train()
        return list(_traces(subject, job, steps)), str(subject.device)


def _traces(subject: Subject, job: TrainJob, steps: int) -> Iterator[Trace]:
    config = job.settings
    optimizer = build_optimizer(subject.module, config.optim)
    objective = objective_of(subject, config)
    update = update_of(subject, config, optimizer)
    pruner = pruner_of(subject, config, optimizer, update)
    recipe = Recipe(update, autocast_of(config.train.precision, subject.device))
    batches = windows(PreparedBatches(subject.batches, objective), config.train.gradient_accumulation_steps)
    for step, (window, _) in zip(range(1, steps + 1), batches, strict=False):
        with _Recorder(subject.module, step) as recorder:
            taken = train_step(window, objective, optimizer, config.optim.learning_rate, recipe)
            if pruner is not None:
                pruner.after_step(step, lambda made=taken.update: made.was_made)  # type: ignore[misc]
        yield from recorder.traces
    for name, each in subject.module.state_dict().items():
        yield Trace(steps, name, "weights at the end", _checksum(each))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, module: nn.Module, step: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module = module
        self.step = step
        self.traces: list[Trace] = []
        self._path: list[str] = []
        self._hooks = ExitStack()

    def __enter__(self) -> _Recorder:
        self._path = self._hooks.enter_context(running(self.module))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if name not in UNDEFINED:
            module = self._path[-1] if self._path else ""
            for each in _tensors(result):
                self.traces.append(Trace(self.step, module, name, _checksum(each)))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _checksum(value: Any) -> int:
    if not isinstance(value, Tensor) or value.is_sparse or value.layout != torch.strided:
        return 0
    raw = value.detach().cpu().contiguous().view(-1)
    return zlib.crc32(raw.view(torch.uint8).numpy().tobytes()) if raw.numel() else 0
