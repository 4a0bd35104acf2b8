"""cost: parameters, operations, memory and cache, forecast from shapes and measured beside the forecast.

The forecast runs the model on fake tensors, which have shapes and no data, so that batches of any size cost
nothing. At a size that is measured too, both must agree; only then is the forecast of larger ones believed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from torchstone._errors import in_one_line
from torchstone.adapt.cache import asking, cache_argument, cache_of
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.unlogged import unlogged
from torchstone.train.meter import LiveTensors, existing_tensors

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

AGREES = 0.1
"""Share by which the forecast may miss the measured bytes and operations."""
LARGE_BATCH = 8
TIMED = 3


@dataclass(frozen=True)
class PassCost:
    """One forward pass without gradients."""

    rows: int
    tokens: int | None
    """Per row; None for images and sound."""
    flops: int
    activation_bytes: int
    """Of live tensors at the peak, weights and inputs left out."""


def measured(context: Context, batch: Batch) -> PassCost:
    existing = existing_tensors(context.module, batch)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, LiveTensors(existing) as live:
        context.adapter(**batch)
    return _cost(context, batch, flops, live)


def forecast(context: Context, batch: Batch) -> PassCost:
    """The same from shapes alone. Raises what torch raises where the model's work depends on values."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    shapes = {
        name: fake.from_tensor(each) if isinstance(each, Tensor) else each for name, each in batch.items()
    }
    weights = [fake.from_tensor(each) for each in (*context.module.parameters(), *context.module.buffers())]
    inputs = [each for each in shapes.values() if isinstance(each, Tensor)]
    with (
        unlogged("torch._subclasses.fake_tensor"),
        torch.no_grad(),
        fake,
        FlopCounterMode(display=False) as flops,
        LiveTensors([*weights, *inputs]) as live,
    ):
        context.adapter(**shapes)
    return _cost(context, batch, flops, live)


def _cost(context: Context, batch: Batch, flops: FlopCounterMode, live: LiveTensors) -> PassCost:
    value = batch[context.primary]
    return PassCost(
        rows=int(value.shape[0]),
        tokens=int(value.shape[1]) if context.takes_tokens else None,
        flops=int(flops.get_total_flops()),
        activation_bytes=live.peak,
    )


def cache_bytes_per_token(context: Context, length: int) -> int | None:
    """Bytes that one more token of one row adds to the cache; None for a model without a cache."""
    name = cache_argument(context.signature)
    if name is None or not context.takes_tokens or length < 3:
        return None
    sizes = []
    for tokens in (length - 1, length):
        output = context.forward({**context.batch(1, length=tokens), **asking(context.signature)})
        found = cache_of(output, name)
        if found is None:
            return None
        sizes.append(sum(each.numel() * each.element_size() for each in _tensors(found, set())))
    return sizes[1] - sizes[0]


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Tensors inside a cache, whatever it is made of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each, seen)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _tensors(each, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
        yield from _tensors(vars(value), seen)


def cost(context: Context) -> CheckResult:
    length = context.plan.side_length
    batch = context.batch(1, length=length)
    context.forward(batch)  # tables that are made on first use are not the cost of a call
    here = measured(context, batch)
    seconds = _seconds(context, batch)
    parameters = list(context.module.parameters())
    weight_bytes = sum(each.numel() * each.element_size() for each in parameters)
    details: dict[str, Any] = {
        "parameters": sum(each.numel() for each in parameters),
        "parameter_bytes": weight_bytes,
        "measured": asdict(here) | {"seconds": seconds},
        "activation_bytes_per_token": here.activation_bytes / here.tokens if here.tokens else None,
        "kv_bytes_per_token": cache_bytes_per_token(context, min(length, 16)),
    }
    fields: dict[str, Any] = {"measured": float(here.flops), "unit": "FLOPs", "details": details}
    words = f"{details['parameters']:,} parameters, {here.flops / 1e6:,.4g} MFLOPs for {_size(here)}"
    try:
        same = forecast(context, batch)
        larger = [forecast(context, each) for each in _larger(context)]
    except Exception as error:  # whatever torch or the model raises on shapes without data
        details["forecast_why_not"] = in_one_line(error)
        return context.warned(
            f"{words}; no forecast: {details['forecast_why_not']}",
            hint="what depends on values, or has no form for shapes alone, has to be measured",
            **fields,
        )
    details["forecast"] = [
        asdict(each) | {"seconds": seconds * each.flops / here.flops if here.flops else None}
        for each in (same, *larger)
    ]
    missed = max(_apart(same.activation_bytes, here.activation_bytes), _apart(same.flops, here.flops))
    details["forecast_error"] = missed
    if missed > AGREES:
        return context.warned(
            f"{words}; the forecast misses the measured cost by {missed:.0%}: do not believe it",
            **fields,
        )
    one = next((each for each in larger if each.rows == 1), same)
    needed, there = weight_bytes + one.activation_bytes, psutil.virtual_memory().total
    if needed > there:
        return context.failed(
            f"{_size(one)} need {needed / 2**30:,.1f} GiB, this machine has {there / 2**30:,.1f}",
            hint="shorten the sequences, or use attention that keeps no scores",
            **(fields | {"measured": float(needed), "limit": float(there), "unit": "bytes"}),
        )
    return context.passed(
        f"{words}; {_size(larger[-1])} will need {_bytes(larger[-1], weight_bytes)}", **fields
    )


def _larger(context: Context) -> list[Batch]:
    if not context.takes_tokens:
        return [context.batch(1), context.batch(LARGE_BATCH)]
    longest = context.facts.max_seq_len or context.plan.longest
    return [context.batch(1, length=longest), context.batch(LARGE_BATCH, length=longest)]


def _seconds(context: Context, batch: Batch) -> float:
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        context.forward(batch)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _apart(forecasted: int, found: int) -> float:
    return abs(forecasted - found) / max(found, 1)


def _size(each: PassCost) -> str:
    return f"{each.rows} x {each.tokens} tokens" if each.tokens else f"{each.rows} example(s)"


def _bytes(each: PassCost, weight_bytes: int) -> str:
    return f"{(weight_bytes + each.activation_bytes) / 2**20:,.1f} MiB"


CHECKS.add(
    Check(
        "cost",
        tier=2,
        title="what a pass costs",
        proves="Memory and operations forecast from shapes agree with those measured, and one example fits.",
        run=cost,
    )
)
