"""How sparsity grows: pure functions of the way gone, from 0 at the start of the ramp to 1 at its end.

A ramp covers a share of a run's budget of steps, never a number of steps: runs of any length end it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchstone._errors import ConfigError
from torchstone._registry import Registry
from torchstone.optim.config import PruneConfig


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """`share(way)` of the final sparsity; 0 at 0, 1 at 1, and it never falls."""

    name: str
    share: Callable[[float], float]
    summary: str
    source: str


RAMPS: Registry[Ramp] = Registry("pruning schedule")
RAMPS.add(
    Ramp(
        name="cubic",
        share=lambda way: 1.0 - (1.0 - way) ** 3,
        summary="fast at first, then slow",
        source="Zhu & Gupta 2017, arXiv:1710.01878, equation 1",
    )
)
RAMPS.add(Ramp(name="linear", share=lambda way: way, summary="at one pace", source="folklore"))
RAMPS.add(
    Ramp(
        name="cube_2025",
        share=lambda way: way**3,
        summary="historical: slow at first, then fast, the reverse of cubic",
        source="github.com/mcgrof/AdamWPrune (November 2025)",
    )
)


@dataclass(frozen=True)
class Plan:
    """When masks are made anew in a run of `total_steps`, and how sparse they are then. Steps from 1."""

    config: PruneConfig
    total_steps: int

    def __post_init__(self) -> None:
        start, end = self.config.start, self.config.end
        if start >= end:
            raise ConfigError(
                f"pruning cannot end before it begins: prune.start = {start:g}, prune.end = {end:g}",
                next="--set prune.start and prune.end to shares of the run that follow each other",
            )

    @property
    def first(self) -> int:
        """The last step before the ramp."""
        return round(self.config.start * self.total_steps)

    @property
    def last(self) -> int:
        """The step that ends the ramp: after it masks stay as they are."""
        return max(round(self.config.end * self.total_steps), self.first + 1)

    def is_due(self, step: int) -> bool:
        if not self.first < step <= self.last:
            return False
        return step == self.last or (step - self.first) % self.config.every == 0

    def share(self, step: int) -> float:
        """Of the final sparsity, at this step."""
        way = (step - self.first) / (self.last - self.first)
        return RAMPS.get(self.config.schedule).share(min(max(way, 0.0), 1.0))
