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
from torchstone.checks.streams import has_decoder, other_values, shown

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
    pooled: bool
    """Whether the output has no axis over these tokens."""


def padding_leak(context: Context) -> CheckResult:
    if not context.takes_tokens:
        return context.skipped(f"the input is {context.primary}, not tokens")
    if not context.signature.has("mask"):
        return context.skipped("the model takes no mask, so nothing can be hidden from it")
    with context.taken_apart(), probing(context) as probe:
        real = context.batch(max(2, context.plan.batch_size), length=_real_tokens(context))
        if not has_decoder(context):
            # A classifier with a decoder shifts its ids by itself.
            real.pop("decoder_input_ids", None)
        reference = _main(probe, real)
        if not bool(torch.isfinite(reference).all()):
            return context.skipped("the outputs are not finite; see numerical-stability")
        if noise_floor(probe, real) > probe.limit(reference):
            return context.skipped("two equal calls differ; see state-leak and eval-determinism")
        per_token = _is_per_token(context, reference, real)
        worst = 0.0
        measured: dict[str, Any] = {}
        notes: list[str] = []
        guilty_sides: list[tuple[Padded, float]] = []
        for side in ("right", "left"):
            padded = _pad(context, real, side)
            first = _real_part(_main(probe, padded.batch), padded)
            gap = difference(first, _real_part(_main(probe, padded.other), padded))
            measured[f"{side}, other padding tokens"] = gap
            worst = max(worst, gap)
            if gap > probe.limit(reference):
                guilty_sides.append((padded, gap))
            elif not probe.random and first.shape == reference.shape:
                # Where the hidden tokens do not matter, the padded batch must agree with the bare one.
                away = difference(first, reference)
                measured[f"{side}, against no padding"] = away
                limit = probe.limit(reference, reshaped=True)
                if side == "right" and away > limit and per_token:
                    return _moves(context, padded, away, limit, measured)
        if guilty_sides:
            notes = [] if per_token else _reading_places(context, probe, real, reference, guilty_sides)
            if not notes:
                padded, gap = guilty_sides[0]
                return _leaks(context, probe, padded, gap, probe.limit(reference), measured)
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


def _real_part(main: Tensor, padded: Padded) -> Tensor:
    """Outputs of real tokens; where the model adds positions of its own, those that are surely no padding."""
    ids = padded.batch["input_ids"]
    if padded.pooled or main.dim() < 3 or main.shape[1] < ids.shape[1]:
        return main
    added = main.shape[1] - ids.shape[1]
    keep = torch.ones(main.shape[1], dtype=torch.bool, device=main.device)
    for start in {0, added}:
        keep[start : start + padded.real.start] = False
        keep[start + padded.real.stop : start + ids.shape[1]] = False
    return main[:, keep]


def _pad(context: Context, real: Batch, side: str) -> Padded:
    ids: Tensor = real["input_ids"]
    rows, length = ids.shape
    extra = max(1, length // 3)
    filler = other_values(context, torch.full((rows, extra), -1, dtype=ids.dtype, device=ids.device), seed=51)
    other = other_values(context, filler, seed=52)
    shown_part = torch.ones(rows, length, dtype=torch.long, device=ids.device)
    hidden_part = torch.zeros(rows, extra, dtype=torch.long, device=ids.device)

    def joined(middle: Tensor, pad: Tensor) -> Tensor:
        return torch.cat([middle, pad] if side == "right" else [pad, middle], dim=1)

    mask = joined(shown_part, hidden_part)
    place = slice(0, length) if side == "right" else slice(extra, extra + length)
    batch = {**real, "input_ids": joined(ids, filler), "attention_mask": mask}
    pooled = has_decoder(context)
    return Padded(side, place, batch, {**batch, "input_ids": joined(ids, other)}, pooled)


def _reading_places(
    context: Context, probe: Probe, real: Batch, reference: Tensor, guilty: list[tuple[Padded, float]]
) -> list[str]:
    """A pooled output may be read at one end of the row, or at the last token that is not the padding id."""
    if len(guilty) == 1 and guilty[0][0].side == "left":
        return ["the output is read at the first token: pad on the right"]
    if len(guilty) == 1:
        at_the_end = "the output is read at the last token: pad on the left"
        return [_known_by_id(context, probe, real, reference) or at_the_end]
    known = _known_by_id(context, probe, real, reference)
    return [known] if known else []


def _known_by_id(context: Context, probe: Probe, real: Batch, reference: Tensor) -> str | None:
    """Whether padding with the padding id, on the right, changes nothing."""
    pad_id = context.facts.pad_token_id
    if pad_id is None:
        return None
    padded = _pad(context, real, "right")
    ids = padded.batch["input_ids"].masked_fill(padded.batch["attention_mask"] == 0, pad_id)
    main = _main(probe, {**padded.batch, "input_ids": ids})
    same = difference(main, reference) <= probe.limit(reference, reshaped=True)
    return f"padding is known by its id {pad_id}, not by the mask" if same else None


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
    return difference(_real_part(main, padded), reference)


def _real_tokens(context: Context) -> int:
    """Padding must still fit below the position limit."""
    return max(1, min(context.plan.length, 35) * 3 // 4)


def _is_per_token(context: Context, reference: Tensor, real: Batch) -> bool:
    own_axis = not has_decoder(context)
    return own_axis and reference.dim() >= 3 and reference.shape[1] >= real["input_ids"].shape[1]


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
