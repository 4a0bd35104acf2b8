"""batch-leak: another row of the batch must not change mine.

Other rows are replaced, exchanged and taken away. A mixture of experts with limited capacity and a batch norm
without running statistics mix rows by design: they are named as a warning, not hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.checks.bisect import Guilty, difference, row_view
from torchstone.checks.probe import Probe, noise_floor, probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import shown

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_ROWS = 3


def batch_leak(context: Context) -> CheckResult:
    with context.taken_apart(), probing(context) as probe:
        batch = context.batch(_ROWS, length=context.plan.side_length)
        main = shown(probe.run(batch))
        if main.dim() == 0 or main.shape[0] != _ROWS:
            return context.skipped(f"the output {tuple(main.shape)} has no row per row of the batch")
        if not bool(torch.isfinite(main).any()):
            return context.skipped("the outputs are not finite; see numerical-stability")
        if noise_floor(probe, batch) > probe.limit(main):
            return context.skipped("two equal calls differ; see state-leak and eval-determinism")
        if _is_pairwise(context, probe, main):
            return _pairs(context, probe, batch, main)
        measured: dict[str, Any] = {}
        for row in (0, _ROWS - 1):
            changed = _others_changed(context, batch, row)
            gap = difference(main[row], shown(probe.run(changed))[row])
            measured[f"other rows changed, row {row}"] = gap
            if gap > probe.limit(main):
                return _convict(context, probe, batch, changed, row, gap, probe.limit(main), measured)
        worst = max(measured.values())
        if not probe.random:
            limit = probe.limit(main, reshaped=True)
            for how, gap in _other_sizes(probe, batch, main):
                measured[how] = gap
                if gap > limit:
                    return _by_size(context, how, gap, limit, measured)
        norms = _batch_norms(context.module)
        measured["batch norms"] = norms
        note = f"; in training, batch norm ({norms[0]}) mixes rows by design" if norms else ""
        return context.passed(
            f"each row is its own{note}",
            measured=worst,
            limit=probe.limit(main),
            unit="max abs",
            details=measured,
        )


def _is_pairwise(context: Context, probe: Probe, main: Tensor) -> bool:
    """A matrix that compares every row with every row grows with the batch on both sides."""
    if main.dim() != 2 or main.shape != (_ROWS, _ROWS):
        return False
    larger = shown(probe.run(context.batch(_ROWS + 1)))
    return larger.shape == (_ROWS + 1, _ROWS + 1)


def _pairs(context: Context, probe: Probe, batch: Batch, main: Tensor) -> CheckResult:
    """Rows are compared with each other by design: only a row's comparison with itself must stay."""
    worst = 0.0
    for row in range(_ROWS):
        changed = shown(probe.run(_others_changed(context, batch, row)))
        worst = max(worst, difference(main[row, row], changed[row, row]))
    say = context.passed if worst <= probe.limit(main) else context.failed
    return say(
        "the output compares every row with every row; a row's own entry does not know the others"
        if worst <= probe.limit(main)
        else "other rows change a row's comparison with itself",
        measured=worst, limit=probe.limit(main), unit="max abs",
    )  # fmt: skip


def _convict(
    context: Context, probe: Probe, batch: Batch, changed: Batch, row: int, gap: float, limit: float,
    measured: dict[str, Any],
) -> CheckResult:  # fmt: skip
    first = batch[context.primary]
    length = first.shape[1] if first.dim() > 1 else None
    guilty = probe.guilty(batch, changed, row_view(row, _ROWS, length))
    name = guilty.name if guilty else None
    fields: dict[str, Any] = {
        "measured": gap, "limit": limit, "unit": "max abs", "module": name, "details": measured,
    }  # fmt: skip
    reason = _by_design(guilty)
    if reason:
        return context.warned(f"other rows change mine ({name}): {reason}, by design", **fields)
    where = f" ({name})" if name else ""
    return context.failed(
        f"other rows of the batch change mine{where}",
        hint="no mean, norm, softmax or reshape may run over the batch axis",
        **fields,
    )


def _by_size(context: Context, how: str, gap: float, limit: float, measured: dict[str, Any]) -> CheckResult:
    fields: dict[str, Any] = {"measured": gap, "limit": limit, "unit": "max abs", "details": measured}
    mixture = next((name for name, each in context.module.named_modules() if is_mixture(each)), None)
    if mixture is not None:
        return context.warned(
            f"the size of the batch changes a row ({mixture}): experts have a capacity, by design",
            module=mixture,
            **fields,
        )
    return context.failed(
        f"a row alone gives other outputs than the same row in a batch ({how})",
        hint="look for a mean, a norm or a reshape over the batch axis, and for batch-size dependent code",
        **fields,
    )


def _others_changed(context: Context, batch: Batch, row: int) -> Batch:
    """All rows but one from another draw."""
    other = context.batch(_ROWS, length=context.plan.side_length, seed=77)
    changed = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == _ROWS:
            mixed = other[name].clone()
            mixed[row] = value[row]
            changed[name] = mixed
        else:
            changed[name] = value
    return changed


def _other_sizes(probe: Probe, batch: Batch, main: Tensor) -> list[tuple[str, float]]:
    alone = shown(probe.run(_rows(batch, slice(0, 1))))
    turned = shown(probe.run(_rows(batch, torch.arange(_ROWS - 1, -1, -1))))
    return [
        ("alone in the batch", difference(alone[0], main[0])),
        ("rows in another order", difference(turned.flip(0), main)),
    ]


def _rows(batch: Batch, which: Any) -> Batch:
    return {
        name: value[which] if isinstance(value, Tensor) and value.dim() and value.shape[0] == _ROWS else value
        for name, value in batch.items()
    }


def _by_design(guilty: Guilty | None) -> str | None:
    if guilty is None:
        return None
    if isinstance(guilty.module, nn.modules.batchnorm._BatchNorm):
        return "a batch norm without running statistics uses those of the batch"
    return "experts have a capacity" if is_mixture(guilty.module) else None


def is_mixture(module: nn.Module) -> bool:
    """A router and experts: some map has as many outputs as there are equal experts beside it."""
    counts = {len(each) for each in module.modules() if isinstance(each, nn.ModuleList) and _are_equal(each)}
    counts |= {each.shape[0] for each in module.parameters() if each.dim() == 3 and each.shape[0] > 1}
    routers = [each for each in module.parameters() if each.dim() == 2]
    return any(1 in (each.shape[0] // count, each.shape[1] // count) and count in each.shape
               for each in routers for count in counts if count > 1)  # fmt: skip


def _are_equal(experts: nn.ModuleList) -> bool:
    shapes = {tuple(tuple(each.shape) for each in expert.parameters()) for expert in experts}
    return len(experts) > 1 and len(shapes) == 1 and shapes != {()}


def _batch_norms(module: nn.Module) -> list[str]:
    kinds = nn.modules.batchnorm._BatchNorm
    return [name for name, each in module.named_modules() if isinstance(each, kinds)]


CHECKS.add(
    Check(
        "batch-leak",
        tier=1,
        title="rows stay apart",
        proves="Another row of the batch never changes the output of mine.",
        run=batch_leak,
    )
)
