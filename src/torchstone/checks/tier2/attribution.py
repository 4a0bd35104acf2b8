"""attribution: which tokens or pixels an answer rests on, by integrated gradients.

Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks": gradients along the path from a
baseline of zeros to the embeddings, integrated. The integrand is smooth, so Gauss-Legendre nodes close the
sum with fewer passes than evenly spaced ones, and all fit into a few batches. The gap between the sum of
the attributions and the change of the answer is measured and reported: completeness is what makes this an
explanation.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchstone.checks.entrance import answer
from torchstone.checks.registry import CHECKS, Check

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

NODES = (8, 16, 32, 64)
GAP = 0.01
"""Share of the change of the answer that may stay unexplained."""
ROUNDING = 1e-5
"""Share of the largest answer below which a change is rounding, and explains nothing."""
PIXELS = 64
"""Height and width at most of the picture of attributions."""
MOMENTS = 32
"""Parts of a sound that are told apart."""


@dataclass(frozen=True)
class Attribution:
    """Integrated gradients of one answer."""

    values: Tensor
    """Like the embeddings or pixels of one example, without the batch."""
    change: float
    """Answer on the input less answer on the baseline."""
    largest: float
    """Largest answer of any class, in absolute value."""
    target: int
    position: int | None
    nodes: int

    @property
    def delta(self) -> float:
        """What the attributions miss of the change."""
        return float(self.values.sum()) - self.change

    @property
    def gap(self) -> float:
        return abs(self.delta) / max(abs(self.change), 1e-12)

    @property
    def scores(self) -> list[float]:
        """Length of the attribution of each token, row of pixels, frame or moment; the largest is one."""
        values = self.values
        if values.dim() == 1:
            norms = torch.stack([part.norm() for part in values.chunk(MOMENTS)])
        elif values.dim() == 3:
            norms = values.abs().sum(0).norm(dim=-1)
        else:
            norms = values.flatten(1).norm(dim=-1)
        return [float(each) for each in norms / (norms.max() + 1e-9)]


class NothingLookedUp(Exception):
    """The model's ids never meet a table that could be integrated over."""


def attribute(context: Context, batch: Batch, nodes: int) -> Attribution:
    """Of the answer that the model thinks likeliest, at the last position. `batch` holds one example."""
    clean, calls = answer(context, batch, lambda entered: entered)
    if not calls:
        raise NothingLookedUp
    position = None if clean.dim() == 2 else clean.shape[1] - 1
    row = clean[0] if position is None else clean[0, position]
    target = int(row.argmax())
    baseline, _ = answer(context, batch, torch.zeros_like)
    change = float(row[target] - _picked(baseline, position, target).sum())
    total: Tensor | None = None
    abscissas, weights = np.polynomial.legendre.leggauss(nodes)
    size = max(1, min(nodes, context.plan.max_batch_size))
    for start in range(0, nodes, size):
        places = torch.tensor(
            (abscissas[start : start + size] + 1) / 2, dtype=clean.dtype, device=clean.device
        )
        shares = torch.tensor(weights[start : start + size] / 2, dtype=clean.dtype, device=clean.device)
        part = _part(context, batch, places, shares, position, target)
        total = part if total is None else total + part
    assert total is not None
    largest = float(clean.abs().max())
    return Attribution(total.detach().cpu(), change, largest, target, position, nodes)


def _part(
    context: Context, batch: Batch, places: Tensor, shares: Tensor, position: int | None, target: int
) -> Tensor:
    """Sum over these nodes of weight * gradient * input."""
    many = {
        name: value.repeat_interleave(len(places), 0) if isinstance(value, Tensor) and value.dim() else value
        for name, value in batch.items()
    }
    entered: list[tuple[Tensor, Tensor]] = []

    def scaled(value: Tensor) -> Tensor:
        axis = 0 if value.shape[0] == len(places) else 1  # a model that wants time first has its batch second
        shape = [1] * value.dim()
        shape[axis] = len(places)
        leaf = (value.detach() * places.to(value.dtype).view(shape)).requires_grad_()
        entered.append((value.detach().movedim(axis, 0), leaf))
        return leaf

    main, _ = answer(context, many, scaled, grad=True)
    gradients = torch.autograd.grad(
        _picked(main, position, target).sum(), [leaf for _, leaf in entered], allow_unused=True
    )
    found: Tensor | None = None
    for (value, _), gradient in zip(entered, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(value)
        elif gradient.shape != value.shape:
            gradient = gradient.movedim(1, 0)
        product = (gradient * value * shares.to(value.dtype).view(-1, *[1] * (value.dim() - 1))).sum(0)
        found = product if found is None or found.shape != product.shape else found + product
    assert found is not None
    return found


def _picked(main: Tensor, position: int | None, target: int) -> Tensor:
    return main[:, target] if position is None else main[:, position, target]


def attribution(context: Context) -> CheckResult:
    batch = context.batch(1, length=min(context.plan.side_length, 32))
    if not batch[context.primary].is_floating_point() and not context.takes_tokens:
        return context.skipped(f"{context.primary} is neither ids nor numbers")
    main = context.main(batch)
    if main.dim() not in (2, 3):
        return context.skipped(f"an answer of shape {tuple(main.shape)} names no classes to attribute")
    try:
        found = attribute(context, batch, NODES[0])
        for nodes in NODES[1:]:
            if found.gap <= GAP:
                break
            found = attribute(context, batch, nodes)
    except NotImplementedError as error:
        return context.skipped(f"the model cannot be differentiated here: {error}")
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        return context.skipped("the model overwrites what its own gradient needs")
    except NothingLookedUp:
        return context.skipped(
            "the model's ids are not looked up in a table, so there is no path to integrate"
        )
    details: dict[str, Any] = {
        "attribution_scores": [round(each, 6) for each in found.scores],
        "convergence_delta": found.delta,
        "change": found.change,
        "target": found.target,
        "target_position": found.position,
        "nodes": found.nodes,
        "input_tokens": batch[context.primary][0].tolist() if context.takes_tokens else None,
        "tokens": _words(context, batch),
    }
    if found.values.dim() == 3:
        details["picture"] = _pixels(found.values)
    fields: dict[str, Any] = {
        "measured": found.gap,
        "limit": GAP,
        "unit": "share of the change",
        "details": details,
    }
    if not bool(torch.isfinite(found.values).all()):
        return context.failed(
            "gradients on the way from zero to the input are not finite",
            hint="a normalisation without an epsilon divides by zero there",
            **fields,
        )
    if found.change == 0 and not found.values.any():
        return context.failed(
            "the answer rests on nothing: neither zero embeddings nor gradients change it",
            hint="the input does not reach the head",
            **fields,
        )
    if abs(found.change) <= ROUNDING * found.largest:
        return context.skipped(
            f"the input changes the answer by {abs(found.change):.0e}: rounding beside {found.largest:.2g}"
        )
    if found.gap > GAP:
        return context.warned(
            f"{found.gap:.1%} of the answer stays unexplained with {found.nodes} nodes",
            hint="attributions of a function with jumps or large curvature are to be read with care",
            **fields,
        )
    return context.passed(
        f"the attributions explain all but {found.gap:.2%} of the answer ({found.nodes} nodes)", **fields
    )


def _words(context: Context, batch: Batch) -> list[str] | None:
    """The text of each token, where the model was trained here and its tokenizer lies beside it."""
    from torchstone.adapt.target import parse_target
    from torchstone.adapt.tokenizer_of import find_tokenizer, home_of

    target = context.wishes.get("target")
    if not context.takes_tokens or target is None or home_of(parse_target(target)) is None:
        return None
    words = find_tokenizer(target)
    return None if words is None else [words.decode([each]) for each in batch[context.primary][0].tolist()]


def _pixels(values: Tensor) -> dict[str, Any]:
    """Attribution per pixel, over channels, as levels of the square root of its share of the largest."""
    whole = values.abs().sum(0)
    size = min(whole.shape[0], PIXELS), min(whole.shape[1], PIXELS)
    small = torch.nn.functional.adaptive_avg_pool2d(whole[None], size)[0]
    levels = ((small / small.max().clamp(min=1e-12)).sqrt() * 255).round().to(torch.uint8)
    return {"width": size[1], "levels": base64.b64encode(levels.numpy().tobytes()).decode("ascii")}


CHECKS.add(
    Check(
        "attribution",
        tier=2,
        title="what an answer rests on",
        proves="Integrated gradients of the likeliest answer add up to it, so they tell what it rests on.",
        run=attribution,
    )
)
