"""The memory that training takes, for this model, this length and this optimizer: measured, not looked up.

    footprint = footprint_of(subject, config)      # two passes, of one and of two examples
    footprint.needed(examples=16)                  # bytes

On a CPU the live tensors of the passes are counted at the dispatcher, on a GPU its allocator tells. What does
not depend on the batch (weights, gradients, the optimizer's state) is counted, not measured.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from torchstone._seeds import preserved_rng
from torchstone.config.resolve import Resolved
from torchstone.data.loader import Loader
from torchstone.optim.registry import build_optimizer
from torchstone.train.assembly import objective_of
from torchstone.train.device import bring
from torchstone.train.memory import memory_told
from torchstone.train.meter import LiveTensors, existing_tensors
from torchstone.train.objective import Prepared
from torchstone.train.precision import autocast_of
from torchstone.train.recompute import recomputed_blocks
from torchstone.train.rehearsal import Rehearsal, unchanged
from torchstone.train.space import readable, state_after_a_step
from torchstone.train.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of a micro-step on one device."""

    fixed: int
    """Weights, gradients, the optimizer's state, averages."""
    per_example: int
    """Activations, logits and what else grows with the batch."""
    passing: int = 0
    """Of a pass, whatever the batch."""

    def needed(self, examples: int) -> int:
        return self.fixed + self.passing + self.per_example * examples

    @property
    def words(self) -> str:
        return f"{readable(self.fixed + self.passing)} and {readable(self.per_example)} per example"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a device has to give."""

    free: int
    """Bytes that nobody uses now."""
    name: str

    @classmethod
    def of(cls, device: torch.device) -> Memory:
        if device.type == "cuda":
            return cls(free=torch.cuda.mem_get_info(device)[0], name=torch.cuda.get_device_name(device))
        if device.type == "mps":
            taken = torch.mps.driver_allocated_memory()
            return cls(free=max(torch.mps.recommended_max_memory() - taken, 0), name="Apple GPU")
        return cls(free=min([psutil.virtual_memory().available, *_left_to_this_container()]), name="cpu")


def _left_to_this_container() -> Iterator[int]:
    """A container may have less than the machine (cgroup v2)."""
    if sys.platform == "linux":
        home = Path("/sys/fs/cgroup")
        with contextlib.suppress(OSError, ValueError):  # no limit, or no such file
            limit = int((home / "memory.max").read_text())
            yield limit - int((home / "memory.current").read_text())


def footprint_of(subject: Subject, config: Resolved) -> Footprint:
    """Measured on the subject's device with its longest examples; model and generators stay as they were."""
    module, device = subject.module, subject.device
    bring(module, device)
    learning = [each for each in module.parameters() if each.requires_grad]
    weights = sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))
    gradients = sum(each.numel() * each.element_size() for each in learning)
    averages = 4 * sum(each.numel() for each in learning) if config.train.ema_decay is not None else 0
    state = state_after_a_step(build_optimizer(module, config.optim))
    one, two = (_peak(subject, config, number) for number in (1, 2))
    per_example = max(two - one, 0)
    return Footprint(
        fixed=weights + gradients + averages + state,
        per_example=per_example,
        passing=max(one - per_example, 0),
    )


def _peak(subject: Subject, config: Resolved, number: int) -> int:
    """Most bytes alive in a forward and backward pass of so many examples, beyond weights and gradients."""
    module, device = subject.module, subject.device
    objective = objective_of(subject, config)
    with preserved_rng():
        batch = objective.prepare(longest_examples(subject, number))
    rehearsal = Rehearsal(module, objective, batch, autocast_of(config.train.precision, device))
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_told())
        if config.train.gradient_checkpointing:
            stack.enter_context(recomputed_blocks(module, rehearsal.quietly))
        stack.enter_context(unchanged(module))
        for parameter in module.parameters():  # as from the second micro-step on
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        return _peak_of_pass(rehearsal, batch, device)


def _peak_of_pass(rehearsal: Rehearsal, batch: Prepared, device: torch.device) -> int:
    if device.type == "cuda":
        rehearsal.loss().backward()  # type: ignore[no-untyped-call]  # libraries take their workspace once
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        rehearsal.loss().backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    gradients = [each.grad for each in rehearsal.module.parameters() if each.grad is not None]
    there = [*existing_tensors(rehearsal.module, batch.inputs | batch.labels), *gradients]
    with LiveTensors(there) as live:
        rehearsal.loss().backward()  # type: ignore[no-untyped-call]
    return live.peak


def longest_examples(subject: Subject, number: int) -> dict[str, torch.Tensor]:
    """A batch of the longest examples, where the data knows its lengths; else of the first."""
    loader = subject.batches
    assert isinstance(loader, Loader), "who measures has asked for that"
    dataset = loader.dataset
    lengths = getattr(dataset, "lengths", None)
    known = lengths() if callable(lengths) else None
    order = loader.order(0) if known is None else (-known).argsort(kind="stable")
    chosen = [int(each) for each in order[:number]]
    return dict(dataset.batch(chosen + chosen[:1] * (number - len(chosen))))
