"""A step of torch's optimizers inside the step of another, which is the one that is seen from outside.

torch wraps `step` of every class with the hooks of its user. Where one step is made of others, those would
be called for each of them.
"""

from __future__ import annotations

import torch


def bare_step(optimizer: torch.optim.Optimizer, optimizer_class: type[torch.optim.Optimizer]) -> None:
    """`optimizer_class.step(optimizer)` without step hooks."""
    step = optimizer_class.step
    while getattr(step, "hooked", False):
        step = step.__wrapped__  # type: ignore[attr-defined]
    step(optimizer)
