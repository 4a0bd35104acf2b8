"""state-leak: a call must not change the next one.

The same input is asked from a fresh model, and again after calls with other values, lengths and batch sizes.
A cache that leaves the answers as they are (rotary tables that grow) is named in the details, not judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchstone.checks.bisect import difference, find_guilty, whole_view
from torchstone.checks.probe import Probe, probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult


def state_leak(context: Context) -> CheckResult:
    with probing(context) as probe:
        ask = context.batch(length=_middle(context))
        if probe.random and _seeded_calls_differ(context, probe, ask):
            return context.skipped("the model is random beyond torch's generators; see eval-determinism")
        context.state.restore()
        fresh = shown(probe.run(ask, fresh=False))
        changed = context.state.changed()
        limit = probe.limit(fresh)
        measured: dict[str, float] = {}
        for how, between in _others(context):
            context.state.restore()
            for batch in between:
                probe.run(batch, fresh=False)
            changed += context.state.changed()
            gap = difference(fresh, shown(probe.run(ask, fresh=False)))
            measured[how] = gap
            if gap > limit:
                return _convict(context, probe, ask, between, how, gap, limit)
        context.state.restore()
        kept = sorted(set(changed))
        return context.passed(
            "a call leaves no trace in the next" + (" (it keeps a harmless cache)" if kept else ""),
            measured=max(measured.values()), limit=limit, unit="max abs",
            details={**measured, "changed attributes": kept[:20]},
        )  # fmt: skip


def _convict(
    context: Context, probe: Probe, ask: Batch, between: list[Batch], how: str, gap: float, limit: float
) -> CheckResult:
    context.state.restore()
    for batch in between:
        probe.run(batch, fresh=False)
    changed = context.state.changed()

    calls = iter(("fresh", "later"))

    def prepare() -> None:
        context.state.restore()
        if next(calls) == "later":
            for batch in between:
                probe.run(batch, fresh=False)

    def run() -> object:
        return probe.run(ask, fresh=False)

    guilty = find_guilty(context.module, run, run, whole_view, probe.relative_limit, prepare)
    context.state.restore()
    name = guilty.name if guilty else (changed[0].rpartition(".")[0] if changed else None)
    where = f" ({name})" if name else ""
    return context.failed(
        f"the same input gives another output after {how}{where}",
        measured=gap, limit=limit, unit="max abs", module=name,
        hint="a forward pass in evaluation mode must not write to buffers or attributes",
        details={"changed attributes": changed[:20], "kind": guilty.kind if guilty else None},
    )  # fmt: skip


def _others(context: Context) -> list[tuple[str, list[Batch]]]:
    middle, longest = _middle(context), context.plan.side_length
    same = context.batch(length=middle)
    rows = context.plan.batch_size + 1
    return [
        ("itself", [same]),
        ("another input", [context.batch(length=middle, seed=61)]),
        ("a longer input", [context.batch(length=longest, seed=62)]),
        ("a shorter input", [context.batch(length=max(1, middle // 2), seed=63)]),
        ("a larger batch", [context.batch(rows, length=middle, seed=64)]),
        ("several inputs", [context.batch(length=middle, seed=65 + place) for place in range(3)]),
    ]


def _middle(context: Context) -> int:
    return max(1, context.plan.side_length // 2)


def _seeded_calls_differ(context: Context, probe: Probe, ask: Batch) -> bool:
    context.state.restore()
    first = shown(probe.run(ask))
    context.state.restore()
    second = shown(probe.run(ask))
    return not torch.equal(first, second)


CHECKS.add(
    Check(
        "state-leak",
        tier=1,
        title="calls leave no trace",
        proves="A call in evaluation mode never changes the answer to the next one.",
        run=state_leak,
    )
)
