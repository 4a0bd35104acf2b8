"""low-precision: cast to bfloat16 and float16 the model stays finite and close to its float32 self."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone.checks.alter import replaced
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.finite import first_bad_module, not_numbers

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

WARN, FAIL = 0.1, 0.35
"""Median over positions of |low - full| / |full|. Rounding of some hundred operations in bfloat16 gives a few
per cent."""

_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def low_precision(context: Context) -> CheckResult:
    batch = context.batch(length=context.plan.side_length)
    full = context.forward(batch).main.float()
    if not_numbers([full]):
        return context.skipped("the model is not finite in its own precision")
    if not full.is_floating_point() or not any(p.dtype == torch.float32 for p in context.module.parameters()):
        return context.skipped("the model has no float32 weights")
    measured: dict[str, float] = {}
    notes: list[str] = []
    for dtype, name in _NAMES.items():
        try:
            with cast(context, dtype):
                answer = context.forward(in_dtype(batch, dtype)).main.float()
                broken = not_numbers([answer])
                module = _blame(context, batch, dtype) if broken else None
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError) as error:
            note = f"{name}: {str(error).splitlines()[0][:140] if str(error) else type(error).__name__}"
            notes.append(note)
            continue
        if broken:
            return context.failed(
                f"in {name} the output is NaN or infinite" + (f", first in {module}" if module else ""),
                measured=1.0,
                limit=0.0,
                unit="non-finite answers",
                module=module,
                details={"dtype": name},
                hint=(
                    "keep large sums, squares and exponentials in float32, and masks at "
                    "torch.finfo(dtype).min"
                ),
            )
        measured[name] = distance(answer, full)
    if not measured:
        return _under_autocast(context, batch, full, notes)
    return _judged(context, measured, notes)


def _judged(context: Context, measured: dict[str, float], notes: list[str]) -> CheckResult:
    worst = max(measured, key=lambda name: measured[name])
    said = ", ".join(f"{name} {value:.1%}" for name, value in measured.items())
    fields: dict[str, Any] = {
        "measured": measured[worst],
        "limit": FAIL,
        "unit": "relative",
        "details": {**measured, "refused": notes},
    }
    hint = "some sum loses its digits: positions, norms, softmax and long accumulations belong in float32"
    if measured[worst] > FAIL:
        return context.failed(
            f"in {worst} the answers are off by {measured[worst]:.0%} ({said})", hint=hint, **fields
        )
    if measured[worst] > WARN:
        return context.warned(
            f"in {worst} the answers are off by {measured[worst]:.0%} ({said})", hint=hint, **fields
        )
    if notes:
        return context.warned(
            f"finite and close where it runs ({said}), but it cannot be cast: {notes[0]}", **fields
        )
    return context.passed(f"finite and close to float32: off by {said}", **fields)


def _under_autocast(context: Context, batch: Batch, full: Tensor, notes: list[str]) -> CheckResult:
    """A model with float32 written into its code cannot be cast whole; autocast is the way that is left."""
    hint = "create tensors in forward with dtype=x.dtype instead of float32"
    try:
        with torch.autocast(context.device.type, dtype=torch.bfloat16):
            answer = context.forward(batch).main.float()
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        return context.failed(
            f"the model runs neither cast nor under autocast: {notes[0]}",
            hint=hint,
            details={"refused": notes, "autocast": str(error)[:200]},
        )
    if not_numbers([answer]):
        return context.failed(
            "under autocast to bfloat16 the output is NaN or infinite", measured=1.0, limit=0.0
        )
    off = distance(answer, full)
    return context.warned(
        f"the model cannot be cast to half precision ({notes[0]}); under autocast it is off by {off:.1%}",
        measured=off,
        limit=FAIL,
        unit="relative",
        hint=hint,
        details={"refused": notes},
    )


@contextmanager
def cast(context: Context, dtype: torch.dtype) -> Iterator[None]:
    """What `module.to(dtype)` does, undone afterwards."""
    held = [*context.module.parameters(), *context.module.buffers()]
    tensors = [each for each in held if each.is_floating_point()]
    try:
        with replaced(tensors, lambda value: value.to(dtype)):
            yield
    finally:
        context.state.restore()


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def _blame(context: Context, batch: Batch, dtype: torch.dtype) -> str | None:
    return first_bad_module(context.module, lambda: context.forward(in_dtype(batch, dtype)))


def distance(low: Tensor, full: Tensor) -> float:
    """Median over positions of the relative error; entries masked with huge negative scores are left out."""
    if low.shape != full.shape:
        return 1.0
    width = full.shape[-1] if full.dim() > 1 else 1
    a, b = low.reshape(-1, width), full.reshape(-1, width)
    usual = (b.abs() < 1e4) & torch.isfinite(a)
    a, b = torch.where(usual, a, 0.0), torch.where(usual, b, 0.0)
    error, size = (a - b).norm(dim=-1), b.norm(dim=-1)
    return float((error / size.clamp_min(1e-6)).median())


CHECKS.add(
    Check(
        "low-precision",
        tier=1,
        title="half precision",
        proves="In bfloat16 and float16 the model stays finite and close to float32.",
        run=low_precision,
    )
)
