"""What makes training quicker on this CPU for this model, found by a short probe and never assumed.

    allocator      keep freed memory instead of giving each large block back to the system (glibc)
    threads        one, the physical cores, or as many as torch took
    bf16           autocast, where the processor has the units and the loss agrees
    attention      written out instead of torch's fused kernel, which is slower for some shapes and formats
    compile        only if what it saves over the steps to come exceeds what compiling takes

Levers are tried one after the other, each against what was kept so far, in alternating passes; one that does
not win by `WORTH` is let go. The choice is written into the run folder, so that a resumed run computes
with the same arithmetic.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchstone.train.precision import autocast_of
from torchstone.train.rehearsal import Rehearsal, unchanged

log = logging.getLogger(__name__)

WORTH = 0.97
"""A lever is kept if a step takes at most this share of what it took."""
ROUNDS = 5
LOSS_AGREES = 0.01
"""Relative difference of the loss that bf16 may make."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The levers that are used."""

    allocator: bool = False
    threads: int | None = None
    """None: as torch took."""
    bf16: bool = False
    attention: str = "chosen by torch"
    compile: bool = False
    gains: Mapping[str, float] = field(default_factory=dict)
    """Lever -> step time without it / with it, as measured; below 1 / WORTH it was let go."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})

    @property
    def words(self) -> str:
        used = [
            *(["allocator keeps its memory"] if self.allocator else []),
            *([f"{self.threads} threads"] if self.threads else []),
            *(["bf16"] if self.bf16 else []),
            *(["attention written out"] if self.attention == "written out" else []),
            *(["compiled"] if self.compile else []),
        ]
        gains = ", ".join(f"{name} {gain:.2f}x" for name, gain in self.gains.items())
        return f"{'; '.join(used) or 'as it is'} (measured: {gains})"


def choose(rehearsal: Rehearsal, *, steps_to_come: int, may_round: bool, may_compile: bool = True) -> Choice:
    """Probe the levers on one batch. `may_round`: bf16 is allowed to change the arithmetic."""
    choice, gains = Choice(), {}
    for name, wish in _wishes(may_round):
        wanted = _with(choice, wish)
        if name == "bf16" and not _agrees(rehearsal, choice, wanted):
            gains[name] = 0.0
            continue
        gains[name], _ = _gain(rehearsal, choice, wanted)
        if gains[name] >= 1 / WORTH:
            choice = wanted
    if may_compile:
        gains["compile"], pays = _try_compiling(rehearsal, choice, steps_to_come)
        if pays:
            choice = _with(choice, {"compile": True})
    return _with(choice, {"gains": {name: round(gain, 3) for name, gain in gains.items()}})


def _wishes(may_round: bool) -> list[tuple[str, dict[str, Any]]]:
    wishes: list[tuple[str, dict[str, Any]]] = []
    if has_mallopt():
        wishes.append(("allocator", {"allocator": True}))
    now, physical = torch.get_num_threads(), psutil.cpu_count(logical=False) or 1
    wishes += [(f"threads={count}", {"threads": count}) for count in sorted({1, physical} - {now})]
    if may_round and _has_bf16_units():
        wishes.append(("bf16", {"bf16": True}))
    wishes.append(("attention", {"attention": "written out"}))
    return wishes


def _with(choice: Choice, wish: Mapping[str, Any]) -> Choice:
    return Choice(**{**{name: getattr(choice, name) for name in Choice.__dataclass_fields__}, **wish})


@contextlib.contextmanager
def pulled(choice: Choice) -> Iterator[None]:
    """The levers of a choice (but for compiling and the format) for the length of the block."""
    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        if choice.allocator:
            keep_freed_memory()
        if choice.threads:
            torch.set_num_threads(choice.threads)
            stack.callback(torch.set_num_threads, before)
        if choice.attention == "written out":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _has_bf16_units() -> bool:
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(known and known())


def has_mallopt() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


def keep_freed_memory() -> None:
    """glibc gives blocks over its threshold back at once, and each new one costs its page faults again."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


# --- measuring ----------------------------------------------------------------------------------


def _gain(rehearsal: Rehearsal, now: Choice, wanted: Choice) -> tuple[float, float]:
    """Time per pass now / wanted, and the wanted time in seconds."""
    ratios, times = [], []
    for turn in range(ROUNDS + 1):
        pair = (now, wanted) if turn % 2 else (wanted, now)
        spent = {id(each): _pass(rehearsal, each) for each in pair}
        if turn:  # the first round warms up
            ratios.append(spent[id(now)] / spent[id(wanted)])
            times.append(spent[id(wanted)])
    return median(ratios), median(times)


def _pass(rehearsal: Rehearsal, choice: Choice) -> float:
    """Seconds of one forward and backward pass."""
    with pulled(choice), _format(rehearsal, choice), unchanged(rehearsal.module):
        began = time.perf_counter()
        rehearsal.loss().backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - began


@contextlib.contextmanager
def _format(rehearsal: Rehearsal, choice: Choice) -> Iterator[None]:
    before = rehearsal.autocast
    rehearsal.autocast = format_of(choice, before)
    try:
        yield
    finally:
        rehearsal.autocast = before


def format_of(
    choice: Choice, otherwise: Callable[[], AbstractContextManager[Any]]
) -> Callable[[], AbstractContextManager[Any]]:
    return autocast_of("bf16", torch.device("cpu")) if choice.bf16 else otherwise


def _agrees(rehearsal: Rehearsal, now: Choice, wanted: Choice) -> bool:
    losses = []
    for each in (now, wanted):
        with _format(rehearsal, each), unchanged(rehearsal.module), torch.no_grad():
            losses.append(float(rehearsal.loss()))
    exact, rounded = losses
    return abs(exact - rounded) <= LOSS_AGREES * max(abs(exact), 1e-12)


def _try_compiling(rehearsal: Rehearsal, choice: Choice, steps_to_come: int) -> tuple[float, bool]:
    """Gain of compiling, and whether it pays back over the steps to come."""
    slow = median(_pass(rehearsal, choice) for _ in range(3))
    if slow * steps_to_come < 60.0:  # compiling takes longer than there is to gain
        return 1.0, False
    module, began = rehearsal.module, time.perf_counter()
    try:
        module.compile()
        _pass(rehearsal, choice)
        spent = time.perf_counter() - began
        quick = median(_pass(rehearsal, choice) for _ in range(3))
    except Exception as error:  # whatever the compiler's many parts raise: then it is no lever
        log.warning("compiling is no lever here: %s: %s", type(error).__name__, error)
        return 0.0, False
    finally:
        module._compiled_call_impl = None
    return slow / quick, (slow - quick) * steps_to_come > 2 * spent and slow / quick >= 1 / WORTH
