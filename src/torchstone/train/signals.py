"""Signals that end a run in order: finish the step, save, leave.

SIGTERM, SIGINT and SIGUSR1 are only noted while `SignalWatch` is open; the engine looks at step
boundaries. A second signal changes nothing, so nobody can tear a save apart by pressing Ctrl-C twice.
Outside the main thread python allows no handlers, and the watch sees nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from torchstone._errors import Interrupted

WATCHED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
TRY_AGAIN = 75


class SignalWatch:
    """`with SignalWatch() as watch: ... if watch.received: ...`; one that is open may be entered again."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._depth = 0

    def __enter__(self) -> SignalWatch:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for each in WATCHED:
                self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            for each, handler in self._before.items():
                signal.signal(each, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)


class _Leave(BaseException):
    """No Exception: what is being imported must not take it for a failure of its own and go on."""


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Outside of a run nothing is at stake: a signal ends the block with `Interrupted`."""
    received: list[signal.Signals] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(signal.Signals(number))
            raise _Leave

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, leave) for each in WATCHED}
    try:
        yield
    except BaseException:
        if not received:
            raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)
    if received:
        error = Interrupted(
            f"stopped by {received[0].name} outside of training", signal_number=int(received[0])
        )
        error.exit_code = exit_code_of(received[0])
        raise error


def exit_code_of(received: signal.Signals) -> int:
    """128 + number, except SIGUSR1: a scheduler's warning that means come back later."""
    return TRY_AGAIN if received.name == "SIGUSR1" else 128 + int(received)
