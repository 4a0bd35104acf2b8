"""The learning rate as a pure function of the optimizer step: nothing to save, nothing to drift on resume.

A schedule is a shape: share of the way after the warm-up (0 to 1) -> share of the peak. The warm-up
is common to all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torchstone._registry import Registry
from torchstone.optim.config import OptimConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`shape(way, floor)`: `way` runs from 0 (peak) to 1 (last step); gives a share of the peak."""

    name: str
    shape: Callable[[float, float], float]
    summary: str
    source: str


def learning_rate_at(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step `step` (0 is the first) in a run of `total_steps`.

    Rises linearly over the warm-up and reaches the peak on its last step; the last step of the run has
    the schedule's final value. Past the end it stays there.
    """
    warmup_steps = round(config.warmup_ratio * total_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    way = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    shape = SCHEDULES.get(config.schedule).shape
    return config.learning_rate * shape(min(way, 1.0), config.final_learning_rate_ratio)


def _cosine(way: float, floor: float) -> float:
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * way))


def _constant(way: float, floor: float) -> float:
    return 1.0


SCHEDULES: Registry[Schedule] = Registry("schedule")

SCHEDULES.add(
    Schedule(
        name="cosine",
        shape=_cosine,
        summary="half a cosine from the peak down to final_learning_rate_ratio of it",
        source="Loshchilov & Hutter, SGDR, arXiv:1608.03983, one cycle",
    )
)
SCHEDULES.add(
    Schedule(name="constant", shape=_constant, summary="the peak, after the warm-up", source="folklore")
)
