"""torch.compile for a run: tried on a real batch first, given up with a reason where it fails or differs.

The module is compiled in place, so names in checkpoints stay what they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from torchstone.train.config import LoopConfig
from torchstone.train.rehearsal import Rehearsal, unchanged

TOLERANCE = {"fp32": 1e-3, "tf32": 5e-3}
"""Relative difference of the loss that fusing may cause; 16-bit formats get 2e-2."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What became of the wish to compile."""

    mode: str
    """none where it was given up."""
    why: str = ""
    seconds: float = 0.0
    """Spent compiling and trying."""


@contextmanager
def compiled(loop: LoopConfig, rehearsal: Rehearsal | None) -> Iterator[Compiled]:
    """Compile the module for the length of the block, if the loss of one batch survives it unchanged."""
    if loop.compile == "none" or rehearsal is None:
        yield Compiled(mode="none")
        return
    module, began = rehearsal.module, time.monotonic()
    eager = _loss_in_evaluation(rehearsal)
    try:
        module.compile(mode=loop.compile, fullgraph=loop.compile_fullgraph, dynamic=loop.compile_dynamic)
        with unchanged(module):
            rehearsal.loss().backward()  # type: ignore[no-untyped-call]
        why = _difference(eager, _loss_in_evaluation(rehearsal), loop.precision)
    except Exception as error:  # whatever the compiler's many parts raise
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if why:
        module._compiled_call_impl = None
    try:
        yield Compiled(mode="none" if why else loop.compile, why=why, seconds=time.monotonic() - began)
    finally:
        module._compiled_call_impl = None
        torch.compiler.reset()


def _loss_in_evaluation(rehearsal: Rehearsal) -> float:
    """Without dropout, whose masks a compiled model draws in another order."""
    with unchanged(rehearsal.module), torch.no_grad():
        rehearsal.module.eval()
        return float(rehearsal.loss())


def _difference(eager: float, fused: float, precision: str) -> str:
    limit = TOLERANCE.get(precision, 2e-2)
    gap = abs(eager - fused) / max(abs(eager), 1e-12)
    if gap <= limit or not math.isfinite(eager):
        return ""
    return f"the compiled model's loss differs by {gap:.1e} (relative; at most {limit:.0e})"
