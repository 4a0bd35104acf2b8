"""What the loop takes and what it gives: batches, an objective, probes, a step taken, an ending."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from torchstone.train.step import Micro, Objective, StepOutcome
from torchstone.train.validation import Measuring


class EngineObjective(Objective, Measuring, Protocol):
    """What is minimised in training and measured in validation."""


class Batches(Protocol):
    """One iteration is the rest of one epoch; each state resumes right after its batch."""

    def __iter__(self) -> Iterator[tuple[Micro, dict[str, Any]]]: ...
    def __len__(self) -> int: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run left the loop. `failed` has no ending: it raises."""

    status: str
    """completed or interrupted."""
    reason: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken and not yet looked at."""

    step: int
    window: list[Micro]
    rng: dict[str, Tensor]
    """Generators of torch as the step found them."""
    outcome: StepOutcome
    learning_rate: float
    loader_state: dict[str, Any]


Probe = Callable[[], dict[str, float]]
"""Measures the model at each validation, for a row of metrics, and changes nothing."""


class Stop(Exception):
    """The way out of the loop when a signal or the clock asks for it."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
