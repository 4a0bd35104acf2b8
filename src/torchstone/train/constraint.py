"""What weights have to satisfy while they learn, such as being zero in places. The loop does not know what.

`torchstone.optim.pruning` has one; `FREE` asks for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Constraint(Protocol):
    @property
    def words(self) -> str:
        """What it asks for; empty for nothing."""

    def after_step(self, step: int, was_made: Callable[[], bool]) -> None:
        """After every update, steps from 1. `was_made` may wait for the device."""

    def require(self) -> dict[str, float]:
        """Before weights are validated: raise where they do not satisfy it; else what there is to log."""


class _Free:
    words = ""

    def after_step(self, step: int, was_made: Callable[[], bool]) -> None: ...

    def require(self) -> dict[str, float]:
        return {}


FREE: Constraint = _Free()
