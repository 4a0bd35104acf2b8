"""perturbation: how answers change under noise on the embeddings, and when tokens are replaced.

The noise is Gaussian, its size a share of the root mean square of the embeddings, and it is added where ids
become numbers, on every model. Replacing tokens is another question, since the text is another one; it is
asked apart and reported under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchstone.checks.entrance import answer
from torchstone.checks.registry import CHECKS, Check

if TYPE_CHECKING:
    from torchstone.checks.context import Batch, Context
    from torchstone.tracking.records import CheckResult

NOISE = (0.0, 0.01, 0.05, 0.1, 0.2)
"""Standard deviation over the root mean square of the embeddings."""
REPLACED = (0.05, 0.1, 0.2)
"""Share of tokens that are replaced."""
VERY_SENSITIVE, MODERATE = 0.5, 0.7
"""Agreement at the largest noise below which a model is called very or moderately sensitive."""
Z = 1.96


@dataclass(frozen=True)
class Response:
    """Answers to changed inputs beside the clean ones; intervals are of 95 % over the rows."""

    level: float
    agreement: float
    """Share of positions whose likeliest answer stays."""
    agreement_interval: tuple[float, float]
    kl: float
    """Mean KL(clean || changed) per position, nats."""
    kl_interval: tuple[float, float]
    flipped: float
    """Share of rows in which any likeliest answer changed."""
    rows: int


def compare(level: float, clean: Tensor, changed: Tensor) -> Response:
    """Of logits [rows, positions, classes]."""
    clean, changed = clean.float(), changed.float()
    same = (clean.argmax(-1) == changed.argmax(-1)).float()
    before, after = clean.log_softmax(-1), changed.log_softmax(-1)
    kl = (before.exp() * (before - after)).sum(-1).clamp(min=0)
    rows = same.shape[0]
    return Response(
        level=level,
        agreement=float(same.mean()),
        agreement_interval=_interval(same.mean(1), 0.0, 1.0),
        kl=float(kl.mean()),
        kl_interval=_interval(kl.mean(1), 0.0, None),
        flipped=float((same.min(1).values < 1).float().mean()),
        rows=rows,
    )


def _interval(per_row: Tensor, low: float | None, high: float | None) -> tuple[float, float]:
    """Of a mean over independent rows."""
    mean = float(per_row.mean())
    half = Z * float(per_row.std()) / len(per_row) ** 0.5 if len(per_row) > 1 else 0.0
    return max(mean - half, -torch.inf if low is None else low), min(
        mean + half, torch.inf if high is None else high
    )


def perturbation(context: Context) -> CheckResult:
    length = min(context.plan.side_length, 32)
    batches = [
        context.batch(max(2, context.plan.batch_size), length=length, seed=number)
        for number in range(max(2, context.plan.repeats))
    ]
    # Through the same entrance, unchanged: torch leaves some fast paths while somebody listens.
    clean = [answer(context, batch, lambda entered: entered)[0] for batch in batches]
    if clean[0].dim() not in (2, 3):
        return context.skipped(f"an answer of shape {tuple(clean[0].shape)} names no classes")
    generator = torch.Generator(device="cpu").manual_seed(context.seed)
    responses = []
    for level in NOISE:
        noisy = [answer(context, batch, _noise(level, generator)) for batch in batches]
        if not all(calls for _, calls in noisy):
            return context.skipped("the model's ids are not looked up in a table where noise could be added")
        responses.append(compare(level, _rows(clean), _rows([main for main, _ in noisy])))
    details: dict[str, Any] = {
        "noise_levels": list(NOISE),
        "accuracy_under_noise": [each.agreement for each in responses],
        "output_stability": [each.kl for each in responses],
        "prediction_flips": [each.flipped for each in responses],
        "noise": [asdict(each) for each in responses],
        "token_substitution": [asdict(each) for each in _replaced(context, batches, clean, generator)],
    }
    last = responses[-1]
    fields: dict[str, Any] = {
        "measured": last.agreement,
        "limit": VERY_SENSITIVE,
        "unit": "share that stays",
        "details": details,
    }
    if responses[0].agreement < 1 or responses[0].kl > 1e-6:
        return context.failed(
            "the same input gives another answer",
            hint="torchstone check --only eval-determinism,state-leak names the module",
            **fields,
        )
    if all(each.kl == 0 for each in responses[1:]) and _unmoved(context, batches[0], clean[0]):
        return context.failed(
            "noise on the embeddings changes nothing: the input does not reach the answer", **fields
        )
    words = f"{last.agreement:.0%} of the answers stay at a noise of {last.level:g}, KL {last.kl:.2g} nats"
    if last.agreement < VERY_SENSITIVE:
        return context.warned(f"very sensitive: {words}", **fields)
    kind = "moderately sensitive: " if last.agreement < MODERATE else ""
    return context.passed(f"{kind}{words}", **fields)


def _noise(level: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    def noisy(value: Tensor) -> Tensor:
        drawn = torch.randn(value.shape, generator=generator).to(value)
        return value + level * value.square().mean().sqrt() * drawn

    return noisy


def _unmoved(context: Context, batch: Batch, clean: Tensor) -> bool:
    zeros, _ = answer(context, batch, torch.zeros_like)
    return torch.equal(zeros, clean)


def _replaced(
    context: Context, batches: list[Batch], clean: list[Tensor], generator: torch.Generator
) -> list[Response]:
    """Token substitution: random ids of other batches at random places."""
    if not context.takes_tokens:
        return []
    found = []
    for share in REPLACED:
        changed = []
        for number, batch in enumerate(batches):
            ids = batch["input_ids"]
            others = context.batch(ids.shape[0], length=ids.shape[1], seed=900 + number)["input_ids"]
            places = torch.rand(ids.shape, generator=generator).to(ids.device) < share
            changed.append(context.main({**batch, "input_ids": torch.where(places, others, ids)}))
        found.append(compare(share, _rows(clean), _rows(changed)))
    return found


def _rows(mains: list[Tensor]) -> Tensor:
    """[rows, positions, classes]; an answer per row has one position."""
    return torch.cat([main if main.dim() == 3 else main[:, None] for main in mains])


CHECKS.add(
    Check(
        "perturbation",
        tier=2,
        title="answers under noise",
        proves="Equal inputs give equal answers, and small noise on the embeddings moves answers little.",
        run=perturbation,
    )
)
