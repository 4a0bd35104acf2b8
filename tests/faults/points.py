"""Places inside a training process where a fault can strike, named by what the process is doing there.

The tiny model calls `reach` in its constructor, its forward and its backward pass and when its state is
taken. A forked trainer is given one `Strike` beforehand: at which place, which time, and what happens.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass
class Strike:
    """`what` happens when `place` is reached for the `count`-th time."""

    place: str
    """build, forward, backward, evaluate or snapshot."""
    count: int
    what: str
    """kill, stop, signals or clock."""
    signals: tuple[str, ...] = ()
    jump_s: float = 0.0
    """How far the wall clock jumps."""


_reached: Counter[str] = Counter()
_strike: Strike | None = None


def plan(strike: Strike | None) -> None:
    """What shall happen in this process."""
    global _strike
    _reached.clear()
    _strike = strike


def reach(place: str) -> None:
    """Said by the model; the fault strikes here if this is its place."""
    _reached[place] += 1
    if _strike is None or _strike.place != place or _strike.count != _reached[place]:
        return
    if _strike.what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _strike.what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif _strike.what == "signals":
        for name in _strike.signals:
            os.kill(os.getpid(), signal.Signals[name])
    elif _strike.what == "clock":
        move_clock(_strike.jump_s)


def move_clock(seconds: float) -> None:
    """From now on the wall clock of this process is off by so much; a monotonic clock never jumps."""
    real: Any = time.time
    real_ns: Any = time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
