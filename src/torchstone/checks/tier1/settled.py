"""Batch norms that never saw a batch: give their running statistics one, so that evaluation has a meaning.

At its start such a norm divides by one. Through a few of them a signal dies or explodes that training would
keep; judging that would judge the absence of data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from torchstone.checks.context import Context

_ROWS = 8


def fresh_norms(module: nn.Module) -> list[_NormBase]:
    """Norms with running statistics that no training pass has touched."""
    return [
        each
        for each in module.modules()
        if isinstance(each, _NormBase)
        and each.track_running_stats
        and each.num_batches_tracked is not None
        and int(each.num_batches_tracked) == 0
    ]


def settle(context: Context) -> None:
    """One training pass that fills the statistics whole, where they are fresh; the runner takes it back."""
    norms = fresh_norms(context.module)
    if not norms:
        return
    momenta = [each.momentum for each in norms]
    try:
        for each in norms:
            each.momentum = None  # a plain average over all batches, here one
        with torch.no_grad():
            context.forward(context.batch(max(2, min(_ROWS, context.plan.max_batch_size))), train=True)
    finally:
        for each, momentum in zip(norms, momenta, strict=True):
            each.momentum = momentum
