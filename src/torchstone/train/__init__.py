"""Training: `run.py` is the recipe of a job, `engine.py` the loop, `step.py` one step of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily

__all__ = ["LoopConfig"]

if TYPE_CHECKING:
    from torchstone.train.config import LoopConfig as LoopConfig

__getattr__, __dir__ = lazily(__name__, {"LoopConfig": "torchstone.train.config"})
