"""One pass over data that is scored and not learned from; the only one in the house.

The engine makes it after an epoch, `torchstone eval` for a trained model: the same numbers by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from torchstone._errors import DataError
from torchstone._seeds import preserved_rng
from torchstone.train.ranks import ALONE, Ranks

Observer = Callable[[Tensor, dict[str, Any]], None]
"""Sees the logits of each batch and what they are compared with."""


BYTES = "bytes"
"""Name of the sum of the bytes that the targets stand for; `bits_per_byte` is made of it."""


class Measuring(Protocol):
    """An objective that can say what validation measures."""

    def count(self, batch: Any) -> int: ...

    def measure(self, batch: Any, observe: Observer | None = None) -> dict[str, Tensor]:
        """Sums over the counted targets, by metric name; `loss` at least."""


def validate(
    module: nn.Module,
    objective: Measuring,
    batches: Iterable[Any],
    autocast: Callable[[], AbstractContextManager[object]],
    *,
    stop: Callable[[], bool] = lambda: False,
    observe: Observer | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float] | None:
    """Means over all targets, so that a short last batch weighs what it should; None if `stop` said so.

    Modes of the modules and all generators are afterwards as they were.
    """
    modes = [(each, each.training) for each in module.modules()]
    sums: dict[str, Tensor] = {}
    targets = 0
    seen = () if observe is None else (observe,)
    module.eval()
    try:
        with preserved_rng(), torch.no_grad():
            for batch in batches:
                if stop():
                    return None
                targets += objective.count(batch)
                with autocast():
                    measured = objective.measure(batch, *seen)
                for name, value in measured.items():
                    sums[name] = sums.get(name, 0) + _exact(value)
    finally:
        for each, mode in modes:
            each.training = mode
    targets = ranks.total(targets)
    (sums,) = ranks.sums([sums])
    if targets == 0:
        raise DataError("the validation set has no target to score", why="no label counts")
    num_bytes = float(sums.pop(BYTES, math.nan))
    means = {name: float(value) / targets for name, value in sums.items()}
    if num_bytes > 0:
        means["bits_per_byte"] = float(sums["loss"]) / math.log(2) / num_bytes
    return means


def _exact(value: Tensor) -> Tensor:
    """In double precision, which Apple's GPU has not."""
    return value.float() if value.device.type == "mps" else value.double()
