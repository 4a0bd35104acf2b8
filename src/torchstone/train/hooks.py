"""What an onlooker may see of a run: a progress bar, a notebook widget, a test.

A hook is any object with some of these methods; those it lacks are not called. Hooks watch, they do not
steer: what they are given is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class StartInfo:
    """What is about to be trained."""

    run_id: str
    run_dir: Path | None
    model: str
    parameters: int
    trainable: int
    """Of the parameters: those that learn."""
    device: str
    precision: str
    total_steps: int
    steps_per_epoch: int
    first_step: int
    """Steps that are already done; 0 unless the run is resumed."""
    has_validation: bool
    unit: str = "tokens"
    """What the targets are that `StepInfo.tokens` counts."""
    settings: dict[str, str] = field(default_factory=dict)
    """Device, memory, formats and kernels as they are used, each in a few words."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One finished step."""

    step: int
    total_steps: int
    learning_rate: float
    tokens: int
    """Targets trained on since the start of the run."""
    tokens_per_s: float | None
    """Since the last logged step; None between logged steps."""
    loss: float
    """Mean over the targets of the step."""
    grad_norm: float
    """Before clipping."""


@dataclass(frozen=True, kw_only=True)
class EvalInfo:
    step: int
    metrics: dict[str, float]
    """`val/loss` and what else the task gives."""
    improved: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EpochInfo:
    """A pass over the training data that is over."""

    epoch: int
    """From 0."""
    row: dict[str, Any]
    """Losses and metrics; `epoch_duration` and the part of it spent validating, `eval_duration`, in s."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    step: int
    path: Path
    is_best: bool
    seconds: float
    """From the end of the step until the checkpoint was complete."""
    blocked_s: float = 0.0
    """Part of it for which training stood still."""


@dataclass(frozen=True, kw_only=True)
class EndInfo:
    step: int
    status: str
    """completed, interrupted or failed."""
    reason: str
    seconds: float


class Hook(Protocol):
    """All of it; implement what you need."""

    def on_start(self, info: StartInfo) -> None: ...
    def on_step(self, info: StepInfo) -> None: ...
    def on_eval(self, info: EvalInfo) -> None: ...
    def on_epoch(self, info: EpochInfo) -> None: ...
    def on_checkpoint(self, info: CheckpointInfo) -> None: ...
    def on_end(self, info: EndInfo) -> None: ...


class Hooks:
    """Several hooks called as one; an event that nobody watches costs nothing."""

    def __init__(self, hooks: Sequence[object] = ()) -> None:
        self.on_start = _listeners(hooks, "on_start")
        self.on_step = _listeners(hooks, "on_step")
        self.on_eval = _listeners(hooks, "on_eval")
        self.on_epoch = _listeners(hooks, "on_epoch")
        self.on_checkpoint = _listeners(hooks, "on_checkpoint")
        self.on_end = _listeners(hooks, "on_end")


def _listeners(hooks: Sequence[object], event: str) -> tuple[Callable[[Any], None], ...]:
    return tuple(getattr(hook, event) for hook in hooks if callable(getattr(hook, event, None)))
