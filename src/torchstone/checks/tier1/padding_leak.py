"""padding-leak: what stands under the mask must not matter.

Two batches that differ only in tokens which the mask hides, on the right and on the left, must give equal
outputs at the tokens it shows; and tokens with padding on the right must give what they give without it.
Padding on the left also moves absolute positions; that is told, not judged, unless the model takes positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone.checks.bisect import View, difference
from torchstone.checks.probe import Probe, noise_floor, probing
from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.streams import other_values, shown

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

_HINT = (
    "turn attention_mask into an additive mask of -inf on the keys (and zero masked states before "
    "convolutions, means and recurrences)"
)


@dataclass(frozen=True)
class Padded:
    """Real tokens with padding on one side; `batch` and `other` differ only under the mask."""

    side: str
    real: slice
    batch: Batch
    other: Batch


def padding_leak(context: Context) -> CheckResult:
    if not context.takes_tokens:
        return context.skipped(f"the input is {context.primary}, not tokens")
    if not context.signature.has("mask"):
        return context.skipped("the model takes no mask, so nothing can be hidden from it")
    with probing(context) as probe:
        real = context.batch(max(2, context.plan.batch_size), length=_real_tokens(context))
        reference = _main(probe, real)
        if not bool(torch.isfinite(reference).all()):
            return context.skipped("the outputs are not finite; see numerical-stability")
        if noise_floor(probe, real) > probe.limit(reference):
            return context.skipped("two equal calls differ; see state-leak and eval-determinism")
        per_token = _is_per_token(context, reference, real)
        worst = 0.0
        measured: dict[str, Any] = {}
        notes: list[str] = []
        for side in ("right", "left"):
            padded = _pad(context, real, side)
            first, second = _main(probe, padded.batch), _main(probe, padded.other)
            if per_token:
                first, second = first[:, padded.real], second[:, padded.real]
            gap, limit = difference(first, second), probe.limit(reference)
            measured[f"{side}, other padding tokens"] = gap
            worst = max(worst, gap)
            if (
                gap > limit
                and not per_token
                and (note := _reads_one_place(context, probe, real, reference, side))
            ):
                notes.append(note)
                continue
            if gap > limit:
                return _leaks(context, probe, padded, gap, limit, measured)
            if not probe.random:
                # Where padding moves nothing, the padded batch must agree with the bare one.
                away = difference(first, reference)
                measured[f"{side}, against no padding"] = away
                limit = probe.limit(reference, reshaped=True)
                if side == "right" and away > limit and per_token:
                    return _moves(context, padded, away, limit, measured)
        positions = context.signature.has("positions") and per_token
        if positions and not probe.random:
            away = _with_positions(context, probe, real)
            measured["left, with its positions, against no padding"] = away
            if away > probe.limit(reference, reshaped=True):
                return context.warned(
                    "with padding on the left and the right position_ids, outputs differ from no padding",
                    measured=away, limit=probe.limit(reference, reshaped=True), unit="max abs",
                    details=measured, hint="use position_ids wherever positions enter the model",
                )  # fmt: skip
    if notes:
        return context.warned(
            '; '.join(dict.fromkeys(notes)),
            limit=probe.limit(reference), unit="max abs", details={**measured, "notes": notes},
        )  # fmt: skip
    return context.passed(
        "tokens under the mask change nothing, on the left and on the right",
        measured=worst, limit=probe.limit(reference), unit="max abs", details=measured,
    )  # fmt: skip


def _leaks(
    context: Context, probe: Probe, padded: Padded, gap: float, limit: float, measured: dict[str, Any]
) -> CheckResult:
    rows, length = padded.batch["input_ids"].shape
    view = _real_view(padded.real, rows, length)
    guilty = probe.guilty(padded.batch, padded.other, view)
    name = guilty.name if guilty else None
    where = f" ({name})" if name else ""
    return context.failed(
        f"tokens hidden by the mask on the {padded.side} change the others{where}",
        measured=gap, limit=limit, unit="max abs", module=name, hint=_HINT, details=measured,
    )  # fmt: skip


def _moves(
    context: Context, padded: Padded, away: float, limit: float, measured: dict[str, Any]
) -> CheckResult:
    return context.failed(
        f"padding on the {padded.side} changes the outputs of real tokens, whatever it holds",
        measured=away, limit=limit, unit="max abs", details=measured,
        hint="the length of the padded batch enters somewhere: a mean, a scale, a position from the end",
    )  # fmt: skip


def _pad(context: Context, real: Batch, side: str) -> Padded:
    ids: Tensor = real["input_ids"]
    rows, length = ids.shape
    extra = max(1, length // 3)
    filler = context.batch(rows, length=extra, seed=51)["input_ids"]
    other = other_values(context, filler, seed=52)
    shown_part = torch.ones(rows, length, dtype=torch.long, device=ids.device)
    hidden_part = torch.zeros(rows, extra, dtype=torch.long, device=ids.device)

    def joined(middle: Tensor, pad: Tensor) -> Tensor:
        return torch.cat([middle, pad] if side == "right" else [pad, middle], dim=1)

    mask = joined(shown_part, hidden_part)
    place = slice(0, length) if side == "right" else slice(extra, extra + length)
    batch = {**real, "input_ids": joined(ids, filler), "attention_mask": mask}
    return Padded(side, place, batch, {**batch, "input_ids": joined(ids, other)})


def _reads_one_place(context: Context, probe: Probe, real: Batch, reference: Tensor, side: str) -> str | None:
    """A pooled output may be read at the first token, or at the last that is not the padding id."""
    if side == "left" and context.task.kind != "causal-lm":
        return "the output is read at the first token: pad on the right"
    pad_id = context.facts.pad_token_id
    if pad_id is None:
        return None
    padded = _pad(context, real, side)
    hidden = padded.batch["attention_mask"] == 0
    ids = padded.batch["input_ids"].masked_fill(hidden, pad_id)
    main = _main(probe, {**padded.batch, "input_ids": ids})
    if difference(main, reference) <= probe.limit(reference, reshaped=True) or side == "left":
        return f"padding is known by its id {pad_id}, not by the mask"
    return None


def _with_positions(context: Context, probe: Probe, real: Batch) -> float:
    padded = _pad(context, real, "left")
    mask = padded.batch["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    try:
        counted = torch.arange(real["input_ids"].shape[1], device=mask.device).expand_as(real["input_ids"])
        reference = _main(probe, {**real, "position_ids": counted})
        main = _main(probe, {**padded.batch, "position_ids": positions})
    except (RuntimeError, ValueError, IndexError, TypeError):
        # Positions of another form than one number per token: no statement.
        return 0.0
    return difference(main[:, padded.real], reference)


def _real_tokens(context: Context) -> int:
    """Padding must still fit below the position limit."""
    return max(1, min(context.plan.length, 35) * 3 // 4)


def _is_per_token(context: Context, reference: Tensor, real: Batch) -> bool:
    axis = "decoder_input_ids" not in real and not context.signature.has("decoder_ids")
    return axis and reference.dim() >= 3 and reference.shape[1] == real["input_ids"].shape[1]


def _real_view(real: slice, rows: int, length: int) -> View:
    """Real positions of tensors with a token axis; a tensor without one must agree wholly to be clean."""

    def view(tensor: Tensor, is_input: bool) -> list[Tensor]:
        axes = [axis for axis, size in enumerate(tensor.shape) if size == length]
        if axes:
            part = tensor.narrow(axes[0], real.start, real.stop - real.start)
            if len(axes) > 1 and not is_input:
                part = part.narrow(axes[1], real.start, real.stop - real.start)
            return [part]
        if tensor.dim() and tensor.shape[0] == rows * length:
            return [tensor.reshape(rows, length, *tensor.shape[1:])[:, real]]
        return [tensor]

    return view


def _main(probe: Probe, batch: Batch) -> Tensor:
    return shown(probe.run(batch))


CHECKS.add(
    Check(
        "padding-leak",
        tier=1,
        title="padding stays hidden",
        proves="A token under the mask never changes the output of a token that the mask shows.",
        run=padding_leak,
    )
)
