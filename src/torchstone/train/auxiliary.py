"""Losses that a model computes beside its task's: the load balance of a mixture of experts.

A model that returns such a term under a known name gets it added in training, with the coefficient that its
configuration names; without one it is taken as weighted already. It is a mean over the tokens of a
micro-batch and weighs by that batch's targets. Validation measures the task alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

FIELDS = ("aux_loss", "auxiliary_loss", "router_loss", "balance_loss", "load_balancing_loss", "moe_loss")
COEFFICIENTS = (
    "router_aux_loss_coef",
    "aux_loss_coef",
    "router_loss_coef",
    "aux_loss_weight",
    "moe_aux_loss_coeff",
    "moe_loss_coef",
)


@dataclass(frozen=True)
class Auxiliary:
    """Where the term stands in the model's output, and what it is multiplied by."""

    field: str
    coefficient: float

    def of(self, raw: Any) -> Tensor | None:
        value = _entry(raw, self.field)
        return None if value is None else value * self.coefficient


def find_auxiliary(raw: Any, config: Mapping[str, Any]) -> Auxiliary | None:
    """The term that this output holds, if any."""
    for field in FIELDS:
        if _entry(raw, field) is not None:
            return Auxiliary(field, coefficient_of(config) or 1.0)
    return None


def coefficient_of(config: Mapping[str, Any]) -> float | None:
    """What the configuration says an auxiliary loss counts for; None where it says nothing."""
    said = (config.get(name) for name in COEFFICIENTS)
    return next((float(each) for each in said if isinstance(each, int | float)), None)


def is_withheld(raw: Any, config: Mapping[str, Any]) -> bool:
    """Whether the configuration speaks of an auxiliary loss that the output does not hold."""
    return bool(coefficient_of(config)) and find_auxiliary(raw, config) is None


def _entry(raw: Any, field: str) -> Tensor | None:
    value = raw.get(field) if isinstance(raw, Mapping) else getattr(raw, field, None)
    return value if isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point() else None
