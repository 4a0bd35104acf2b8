"""The learning rate as a pure function of the optimizer step: nothing to save, nothing to drift on resume.

A schedule is a shape: a moment after the warm-up -> share of the peak. The warm-up is common to all.

    warm-up     0 .. W-1       rises linearly, the peak on step W-1
    shape       W .. N-1       the peak on step W; the schedule's final value on step N-1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torchstone._registry import Registry
from torchstone.optim.config import OptimConfig

TIMESCALE = 10_000
"""Steps after which an inverse square root that had no warm-up has fallen to 1 / sqrt(2)."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in a run, after the warm-up. All in optimizer steps; `step` 0 is the first."""

    step: int
    total_steps: int
    warmup_steps: int

    @property
    def since_peak(self) -> int:
        return self.step - self.warmup_steps

    @property
    def way(self) -> float:
        """From 0 (end of the warm-up) to 1 (last step, and past it)."""
        return min(self.since_peak / max(1, self.total_steps - 1 - self.warmup_steps), 1.0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`shape(moment, config)` gives a share of the peak, in [0, 1]."""

    name: str
    shape: Callable[[Moment, OptimConfig], float]
    reaches_floor: bool
    """Whether the last step of a run has `final_learning_rate_ratio` of the peak."""
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
    shape = SCHEDULES.get(config.schedule).shape
    return config.learning_rate * shape(Moment(step, total_steps, warmup_steps), config)


# --- forms of a fall, from 1 at 0 to 0 at 1 -----------------------------------------------------


def _cosine_fall(way: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * way))


FALLS: dict[str, Callable[[float], float]] = {
    "linear": lambda way: 1.0 - way,
    "cosine": _cosine_fall,
    "1-sqrt": lambda way: 1.0 - math.sqrt(way),
}


def _to_floor(share: float, floor: float) -> float:
    return floor + (1.0 - floor) * share


# --- shapes -------------------------------------------------------------------------------------


def _cosine(moment: Moment, config: OptimConfig) -> float:
    return _to_floor(_cosine_fall(moment.way), config.final_learning_rate_ratio)


def _linear(moment: Moment, config: OptimConfig) -> float:
    return _to_floor(1.0 - moment.way, config.final_learning_rate_ratio)


def _constant(moment: Moment, config: OptimConfig) -> float:
    return 1.0


def _wsd(moment: Moment, config: OptimConfig) -> float:
    """The last `decay_steps` steps are below the peak, and the last of them is at the floor."""
    decay_steps = round(config.decay_ratio * moment.total_steps)
    # Where the shares overlap the warm-up wins: every schedule reaches its peak.
    decay_steps = min(decay_steps, moment.total_steps - max(moment.warmup_steps, 1))
    last_stable = moment.total_steps - 1 - decay_steps
    if moment.step <= last_stable or decay_steps == 0:
        return 1.0
    way = min((moment.step - last_stable) / decay_steps, 1.0)
    return _to_floor(FALLS[config.decay_form](way), config.final_learning_rate_ratio)


def _inverse_sqrt(moment: Moment, config: OptimConfig) -> float:
    timescale = moment.warmup_steps or TIMESCALE
    return math.sqrt(timescale / (timescale + moment.since_peak))


SCHEDULES: Registry[Schedule] = Registry("schedule")

SCHEDULES.add(
    Schedule(
        name="cosine",
        shape=_cosine,
        reaches_floor=True,
        summary="half a cosine from the peak down to final_learning_rate_ratio of it",
        source="Loshchilov & Hutter, SGDR, arXiv:1608.03983, one cycle",
    )
)
SCHEDULES.add(
    Schedule(
        name="linear",
        shape=_linear,
        reaches_floor=True,
        summary="a straight line from the peak down to final_learning_rate_ratio of it",
        source="Devlin et al. 2018, arXiv:1810.04805, appendix A.2",
    )
)
SCHEDULES.add(
    Schedule(
        name="constant",
        shape=_constant,
        reaches_floor=False,
        summary="the peak, after the warm-up",
        source="folklore",
    )
)
SCHEDULES.add(
    Schedule(
        name="wsd",
        shape=_wsd,
        reaches_floor=True,
        summary="warm-up, stable, decay: the peak until decay_ratio of the steps is left, then down",
        source="Hu et al. 2024, MiniCPM, arXiv:2404.06395; 1-sqrt: Haegele et al. 2024, arXiv:2405.18392",
    )
)
SCHEDULES.add(
    Schedule(
        name="inverse-sqrt",
        shape=_inverse_sqrt,
        reaches_floor=False,
        summary="falls with the square root of the steps, on the scale of the warm-up; knows no end",
        source="Vaswani et al. 2017, arXiv:1706.03762, section 5.3",
    )
)
