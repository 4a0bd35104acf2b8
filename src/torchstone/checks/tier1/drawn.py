"""Whether a tensor looks drawn at random or follows from a rule (a mask, positions, sines, decays).

A table that follows from a rule is the same after every construction, so it need not be saved; one that was
drawn is lost. Used where the model cannot be built a second time to compare. Pure function of the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 16
_SAMPLE = 256


def looks_drawn(tensor: Tensor) -> bool:
    """True for many distinct, unordered values that obey no short recurrence along any axis."""
    if not tensor.is_floating_point() or tensor.numel() < _FEW:
        return False
    values = tensor.detach().cpu().double().nan_to_num(0.0, 0.0, 0.0)
    for axis, size in enumerate(values.shape):
        if size > _SAMPLE:
            values = values.narrow(axis, 0, _SAMPLE)
    for axis in range(values.dim()):
        # Copies along an axis tell nothing.
        if bool((values == values.narrow(axis, 0, 1)).all()):
            values = values.narrow(axis, 0, 1)
    distinct = len(torch.unique(values))
    if bool((values == values.round()).all()) or distinct < max(_FEW // 2, values.numel() // 4):
        return False
    return not any(
        _follows_rule(values.movedim(axis, 0)) for axis, size in enumerate(values.shape) if size >= 4
    )


def _follows_rule(along: Tensor) -> bool:
    """Ordered along the axis, or x[t+1] + x[t-1] = a x[t] + b: constants, lines, powers, sines and sums with
    constants.
    """
    columns = along.reshape(along.shape[0], -1)
    steps = columns.diff(dim=0)
    if bool(((steps >= 0).all(dim=0) | (steps <= 0).all(dim=0)).all()):
        return True
    middle, outer = columns[1:-1], columns[2:] + columns[:-2]
    # A padding row of zeros interrupts an otherwise smooth table.
    zero = (columns == 0).all(dim=1)
    whole = ~(zero[1:-1] | zero[2:] | zero[:-2])
    middle, outer = middle[whole], outer[whole]
    if len(middle) < 4:
        return False
    centred, target = middle - middle.mean(0), outer - outer.mean(0)
    scale = (centred * centred).sum(0)
    slope = (centred * target).sum(0) / scale.clamp_min(1e-30)
    left = (target - slope * centred).square().sum(0)
    size = target.square().sum(0)
    return bool((left <= 1e-4 * size + 1e-12 * len(middle)).double().mean() > 0.95)
