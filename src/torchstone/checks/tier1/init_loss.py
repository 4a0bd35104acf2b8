"""init-loss: an untrained model knows nothing, so its cross entropy on drawn labels is about ln(classes)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.checks.registry import CHECKS, Check
from torchstone.checks.tier1.objective import class_logits
from torchstone.checks.tier1.settled import settle

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

FAIL_FACTOR, FAIL_MARGIN = 1.5, 1.0
WARN_FACTOR, WARN_MARGIN = 1.15, 0.5


def init_loss(context: Context) -> CheckResult:
    settle(context)
    batch = context.batch(max(2, context.plan.batch_size))
    output = context.forward(batch)
    logits = class_logits(context, output)
    if logits is None:
        return context.skipped("the model gives no scores over a vocabulary or classes")
    scores = logits.reshape(-1, logits.shape[-1]).float()
    open_classes = (~torch.isneginf(scores)).all(dim=0).nonzero().flatten()
    if len(open_classes) < 2 or not bool(torch.isfinite(scores[:, open_classes]).all()):
        return context.skipped("the scores are not finite; numerical-stability judges that")
    scores = scores[:, open_classes]
    if _are_probabilities(scores):
        return context.failed(
            "the scores are probabilities already (each row sums to 1); a loss applies softmax "
            "to them once more",
            measured=1.0,
            limit=0.0,
            unit="softmax",
            hint="return logits from forward; leave softmax to the loss and the sampler",
        )
    expected = math.log(len(open_classes))
    loss = _loss_on_drawn_labels(scores, context.seed)
    limit = FAIL_FACTOR * expected + FAIL_MARGIN
    details = {"classes": len(open_classes), "expected": expected}
    if is_trained(context.module):
        return context.passed(
            f"the weights are trained (loss {loss:.2f} on drawn labels); the law is about a fresh start",
            measured=loss,
            unit="nats",
            details=details,
        )
    if loss > limit:
        return context.failed(
            f"loss {loss:.2f} before training, ln({len(open_classes)}) = {expected:.2f} is what "
            "knowing nothing costs",
            measured=loss,
            limit=limit,
            unit="nats",
            details=details,
            hint=(
                "the scores start too large: draw the head (or the tied embedding) with std "
                "0.02, or scale it by 1/sqrt(width)"
            ),
        )
    status = context.warned if loss > WARN_FACTOR * expected + WARN_MARGIN else context.passed
    return status(
        f"loss {loss:.2f} before training, ln({len(open_classes)}) = {expected:.2f}",
        measured=loss,
        limit=limit,
        unit="nats",
        details=details,
    )


def _are_probabilities(scores: Tensor) -> bool:
    sums = scores.sum(dim=-1)
    return bool((scores >= 0).all()) and bool((sums - 1).abs().max() < 1e-3)


def _loss_on_drawn_labels(scores: Tensor, seed: int) -> float:
    """Mean over several draws, so that few positions do not decide."""
    generator = torch.Generator().manual_seed(seed + 11)
    labels = torch.randint(0, scores.shape[-1], (8, len(scores)), generator=generator).to(scores.device)
    log_probabilities = F.log_softmax(scores, dim=-1)
    return -float(log_probabilities.gather(1, labels.t()).mean())


def is_trained(module: nn.Module) -> bool:
    """Norm weights start as one constant; after training no two entries agree."""
    for each in module.modules():
        own = dict(each.named_parameters(recurse=False))
        weight = own.get("weight")
        if (
            weight is None
            or weight.dim() != 1
            or weight.numel() < 8
            or any(p.dim() > 1 for p in own.values())
        ):
            continue
        values = weight.detach().float()
        if float(values.std()) > 1e-3 * max(float(values.abs().mean()), 1e-3):
            return True
    return False


CHECKS.add(
    Check(
        "init-loss",
        tier=1,
        title="loss at start",
        proves="Before training, the loss on drawn labels is near ln(number of classes).",
        run=init_loss,
    )
)
