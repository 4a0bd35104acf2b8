"""numerical-stability: legal but uncomfortable inputs give finite answers of a sane range that differ
between inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.finite import first_bad_module, not_numbers
from torchstone.checks.tier1.objective import answers
from torchstone.checks.tier1.settled import settle

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

LARGE = 1e4
"""Outputs above this overflow half precision soon and saturate every softmax."""

COLLAPSED = 1e-5
"""Answers to different inputs that differ by less than this part of their size are one answer."""


def numerical_stability(context: Context) -> CheckResult:
    settle(context)
    largest, where = 0.0, ""
    probes = 0
    refused: list[str] = []
    for label, batch in probes_of(context):
        try:
            output = context.forward(batch)
        except (RuntimeError, IndexError, ValueError):
            if not probes:
                raise
            refused.append(label)
            continue
        probes += 1
        if not_numbers(answers(output) or [output.main]):
            module = first_bad_module(context.module, lambda batch=batch: context.forward(batch))  # type: ignore[misc]
            return context.failed(
                f"NaN or infinity for a legal input ({label})" + (f", first in {module}" if module else ""),
                measured=1.0,
                limit=0.0,
                unit="non-finite answers",
                module=module,
                hint=(
                    "look there for a division without eps, a softmax over nothing, a log of "
                    "zero or an overflow"
                ),
                details={"probe": label},
            )
        finite = output.main.float().nan_to_num(0.0, 0.0, 0.0)
        size = float(finite.abs().max()) if finite.numel() else 0.0
        if size > largest:
            largest, where = size, label
    details = {"probes": probes, "largest_at": where, "refused": refused}
    variation = _variation(context)
    if largest > LARGE:
        return context.warned(
            f"outputs reach {largest:.3g} ({where})",
            measured=largest,
            limit=LARGE,
            unit="max abs",
            details=details,
            hint="scale the head or normalise the last state",
        )
    if variation is not None and variation < COLLAPSED:
        return context.warned(
            f"answers to different inputs differ by only {variation:.1e} of their size",
            measured=variation,
            limit=COLLAPSED,
            unit="relative",
            details=details,
            hint="the signal of the input is lost on the way; see residual-scale",
        )
    return context.passed(
        f"{probes} kinds of input give finite answers, at most {largest:.3g}",
        measured=largest,
        limit=LARGE,
        unit="max abs",
        details=details,
    )


def probes_of(context: Context) -> Iterator[tuple[str, Batch]]:
    """Drawn inputs and extreme ones: equal tokens, first and last ids, the longest sequence, silence, loud
    signals.
    """
    for seed in range(context.plan.repeats):
        yield (
            f"drawn ids, seed {seed}" if context.takes_tokens else f"drawn input, seed {seed}",
            context.batch(seed=seed, length=context.plan.length if seed == 0 else context.plan.side_length),
        )
    batch = context.batch(length=context.plan.side_length)
    value = batch[context.primary]
    if not value.is_floating_point():
        yield from _token_probes(context, batch, value)
        return
    extremes: dict[str, Tensor] = {
        "all zero": torch.zeros_like(value),
        "all equal": torch.full_like(value, 0.5),
        "three times as strong": value * 3.0,
        "one bright spot": _spot(value),
    }
    for label, extreme in extremes.items():
        yield label, {**batch, context.primary: extreme}


def _token_probes(context: Context, batch: Batch, ids: Tensor) -> Iterator[tuple[str, Batch]]:
    vocabulary = context.facts.vocab_size or context.task.vocab_size
    same: dict[str, int] = {"id 0 everywhere": 0, "one id everywhere": int(ids.flatten()[0])}
    if vocabulary:
        same["the last id everywhere"] = int(vocabulary) - 1
    specials = _special_ids(context)
    for label, token in same.items():
        # Where the same id marks a structure (a separator, an image slot), filling a row with it is
        # no legal input.
        if token not in specials:
            yield label, {**batch, context.primary: torch.full_like(ids, token)}
    pad = context.facts.pad_token_id
    if pad is not None and 0 <= pad < (vocabulary or 0):
        mixed = ids.clone()
        mixed[:, 1::2] = int(pad)
        yield "padding ids between the others", {**batch, context.primary: mixed}
    # The very longest sequence is shape-robustness' business, which asks for finite numbers as well.
    longest = min(context.plan.longest, 4 * ids.shape[1])
    if longest > ids.shape[1]:
        yield f"{longest} tokens", context.batch(1, length=longest)
    yield "one token", context.batch(1, length=1)


def _special_ids(context: Context) -> set[int]:
    """Ids that the configuration gives a meaning of structure (`image_token_id`, `eos_token_id`, ...),
    padding apart.
    """
    found = set()
    for name, value in _flat(context.config):
        if (
            name.endswith(("token_id", "token_index"))
            and not name.startswith("pad")
            and isinstance(value, int)
        ):
            found.add(value)
    return found


def _flat(config: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict) and depth < 3:
            yield from _flat(value, depth + 1)
        else:
            yield str(name), value


def _spot(value: Tensor) -> Tensor:
    spot = torch.zeros_like(value)
    spot.flatten(1)[:, 0] = 3.0
    return spot


def _variation(context: Context) -> float | None:
    """Largest difference between answers to drawn inputs, relative to their size."""
    first, second = (
        context.main(context.batch(2, seed=seed, length=context.plan.side_length)) for seed in (1, 2)
    )
    if first.shape != second.shape or not first.is_floating_point():
        return None
    first, second = (each.float().nan_to_num(0.0, 0.0, 0.0) for each in (first, second))
    size = float(first.abs().max())
    return float((first - second).abs().max()) / size if size else 0.0


CHECKS.add(
    Check(
        "numerical-stability",
        tier=1,
        title="stability",
        proves="Legal but extreme inputs give finite answers of a sane range.",
        run=numerical_stability,
    )
)
