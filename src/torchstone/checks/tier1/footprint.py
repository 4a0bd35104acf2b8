"""memory-footprint and inference-speed: what a call costs, counted at the dispatcher, and judged by how it
grows.

Bytes are those of live tensors at the peak, work is multiply-adds and operations: both are the same on every
run. Times are measured too and shown, but no verdict hangs on them.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psutil
import torch

from torchstone._seeds import seed_everything
from torchstone.checks.registry import CHECKS, Check
from torchstone.train.meter import LiveTensors, existing_tensors, growth

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

WITH_LENGTH = 2.4
"""Exponent of cost over tokens; attention has 2."""

PURE_ATTENTION, CUBIC = 2.02, 0.25
"""An exponent that attention alone cannot reach, and the share of a cubic part: together they convict too."""

WITH_BATCH = 1.4
"""Exponent of cost over rows; independent rows have 1."""

KEPT = 1024
"""Bytes that a call may leave behind beyond the ones that the call before left."""

_TIMED = 5


@dataclass(frozen=True)
class Cost:
    """One call: peak bytes of live tensors, bytes alive after it, multiply-adds, operations."""

    peak_bytes: int
    left_bytes: int
    multiply_adds: int
    operations: int


def cost_of(context: Context, batch: Batch) -> Cost:
    return costs_of(context, batch, calls=1)[0]


def costs_of(context: Context, batch: Batch, calls: int) -> list[Cost]:
    """Costs of equal calls in a row; `left_bytes` counts what all of them left behind so far."""
    costs: list[Cost] = []
    work = operations = 0
    with (
        torch.no_grad(),
        context.mode(train=False),
        LiveTensors(existing_tensors(context.module, batch)) as live,
    ):
        for _ in range(calls):
            seed_everything(context.seed)
            live.peak = live.now
            output = context.adapter(**batch)
            del output
            costs.append(Cost(live.peak, live.now, live.multiply_adds - work, live.operations - operations))
            work, operations = live.multiply_adds, live.operations
    return costs


@dataclass(frozen=True)
class Sizes:
    """Costs at two batch sizes and, for tokens, at four evenly spaced lengths."""

    rows: tuple[int, int]
    by_rows: tuple[Cost, Cost]
    tokens: tuple[int, ...] = ()
    by_tokens: tuple[Cost, ...] = ()

    def with_batch(self, field: str) -> float:
        small, large = (getattr(each, field) for each in self.by_rows)
        return growth(small, large, self.rows[1] / self.rows[0])

    def with_length(self, field: str) -> float | None:
        """Exponent from half of the longest length to the longest."""
        if not self.by_tokens:
            return None
        return growth(getattr(self.by_tokens[1], field), getattr(self.by_tokens[3], field), 2.0)

    def cubic_share(self, field: str) -> float:
        """Part of the cost at the longest length that grows like its cube: the third difference tells."""
        if not self.by_tokens:
            return 0.0
        a, b, c, d = (getattr(each, field) for each in self.by_tokens)
        # For cost k * length**3 at n, 2n, 3n, 4n the third difference is 6 k n**3, the last cost 64 k n**3.
        return max(0.0, (d - 3 * c + 3 * b - a) * 64 / 6) / max(d, 1)


def sizes_of(context: Context) -> Sizes:
    """Measured once per job."""
    if "sizes" not in context.cache:
        context.cache["sizes"] = _measure(context)
    found: Sizes = context.cache["sizes"]
    return found


def _measure(context: Context) -> Sizes:
    context.forward(context.batch(1))  # Tables that are made on first use are not the cost of a call.
    rows = (2, 8) if context.plan.max_batch_size >= 8 else (1, 2)
    if not context.takes_tokens:
        by_rows = tuple(cost_of(context, context.batch(size)) for size in rows)
        return Sizes(rows, (by_rows[0], by_rows[1]))
    length = min(16, context.plan.length)
    by_rows = tuple(cost_of(context, context.batch(size, length=length)) for size in rows)
    quarter = min(context.plan.longest, 256) // 4
    lengths = tuple(quarter * each for each in (1, 2, 3, 4))
    if quarter < 2:
        return Sizes(rows, (by_rows[0], by_rows[1]))
    try:
        by_tokens = tuple(cost_of(context, context.batch(1, length=each)) for each in lengths)
    except (RuntimeError, IndexError, ValueError):
        # A length that the model does not take is shape-robustness' finding.
        return Sizes(rows, (by_rows[0], by_rows[1]))
    return Sizes(rows, (by_rows[0], by_rows[1]), lengths, by_tokens)


def memory_footprint(context: Context) -> CheckResult:
    sizes = sizes_of(context)
    weights = sum(each.numel() * each.element_size() for each in context.module.parameters())
    peak = max(each.peak_bytes for each in (*sizes.by_rows, *sizes.by_tokens))
    per_row = sizes.by_rows[1].peak_bytes / sizes.rows[1]
    memory = psutil.virtual_memory().total
    # Weights, their gradients and two moments of Adam; activations come on top.
    training = 4 * weights
    details: dict[str, Any] = {
        "weight_bytes": weights, "peak_activation_bytes": peak, "activation_bytes_per_row": per_row,
        "training_bytes_without_activations": training, "exponent_over_rows": sizes.with_batch("peak_bytes"),
        "exponent_over_tokens": sizes.with_length("peak_bytes"), "host_bytes": memory,
    }  # fmt: skip
    fields: dict[str, Any] = {"measured": float(weights + peak), "unit": "bytes", "details": details}
    leak = _left_behind(context)
    if leak > KEPT:
        return context.failed(
            f"each call leaves {leak:,} bytes behind that the next does not free",
            **(fields | {"measured": float(leak), "limit": float(KEPT), "unit": "bytes per call"}),
            hint="forward keeps its tensors, e.g. appends activations to a list of the module",
        )
    said = _grows_too_fast(sizes, "peak_bytes")
    if said:
        return context.failed(
            f"memory grows {said}", hint="look for a tensor that pairs rows or triples of tokens", **fields
        )
    if weights + peak > memory:
        return context.warned(
            f"weights and activations need more than the {memory / 2**30:.0f} GiB of this machine", **fields
        )
    extra = "; training with Adam will not fit here" if training > memory else ""
    return context.passed(
        f"weights {weights / 2**20:.1f} MiB, activations up to {peak / 2**20:.2f} MiB "
        f"({per_row / 2**10:.0f} KiB per row){extra}",
        **fields,
    )


def _left_behind(context: Context) -> int:
    """Bytes by which every further equal call adds to what is alive; the first two may fill a cache."""
    batch = context.batch(2, length=context.plan.side_length)
    left = [each.left_bytes for each in costs_of(context, batch, calls=5)]
    return min(after - before for before, after in pairwise(left[1:]))


def inference_speed(context: Context) -> CheckResult:
    sizes = sizes_of(context)
    batch = context.batch(1)
    times = _times(context, batch)
    value = batch[context.primary]
    tokens = value.numel() if context.takes_tokens else 1
    median = statistics.median(times)
    unit = "tokens/s" if context.takes_tokens else "samples/s"
    side = context.batch(1, length=context.plan.side_length)
    costs = costs_of(context, side, calls=4)[1:]
    details: dict[str, Any] = {
        "median_ms": median * 1e3, "p95_ms": sorted(times)[-1] * 1e3, "per_second": tokens / median,
        "operations": costs[0].operations, "multiply_adds": costs[0].multiply_adds,
    }  # fmt: skip
    fields: dict[str, Any] = {"measured": median * 1e3, "unit": "ms", "details": details}
    if costs[0].operations < costs[1].operations < costs[2].operations:
        return context.failed(
            f"every call does more work than the one before: {costs[0].operations}, {costs[1].operations}, "
            f"{costs[2].operations} operations for the same input",
            hint="forward keeps something that grows from call to call",
            **fields,
        )
    if costs[0].multiply_adds < costs[1].multiply_adds < costs[2].multiply_adds:
        return context.failed(
            "every call multiplies more than the one before, for the same input",
            hint="forward keeps something that grows from call to call",
            **fields,
        )
    said = _grows_too_fast(sizes, "multiply_adds")
    if said:
        return context.failed(
            f"work grows {said}", hint="look for a product over pairs of rows or triples of tokens", **fields
        )
    return context.passed(f"{median * 1e3:.1f} ms per call, {tokens / median:,.0f} {unit}", **fields)


def _times(context: Context, batch: Batch) -> list[float]:
    times = []
    for number in range(_TIMED + 1):
        started = time.perf_counter()
        context.forward(batch)
        if number:
            times.append(time.perf_counter() - started)
    return times


def _grows_too_fast(sizes: Sizes, field: str) -> str | None:
    over_rows, over_tokens = sizes.with_batch(field), sizes.with_length(field)
    if over_rows > WITH_BATCH:
        return f"like the batch to the power {over_rows:.1f}; independent rows give 1"
    if over_tokens is not None and over_tokens > WITH_LENGTH:
        return f"like the length to the power {over_tokens:.1f}; attention gives 2"
    cubic = sizes.cubic_share(field)
    if over_tokens is not None and over_tokens > PURE_ATTENTION and cubic > CUBIC:
        return f"with the cube of the length ({cubic:.0%} of it at {sizes.tokens[-1]} tokens)"
    return None


CHECKS.add(
    Check(
        "memory-footprint",
        tier=1,
        title="memory",
        proves="A call frees what it used, and memory grows no faster than attention must.",
        run=memory_footprint,
    )
)
CHECKS.add(
    Check(
        "inference-speed",
        tier=1,
        title="speed",
        proves="Every call does the same work, which grows no faster than attention must.",
        run=inference_speed,
    )
)
