"""Gradients clipped by element against their own history: |g| <= sqrt(theta v).

Few elements ever exceed that. A CPU, where looking at a value is free, looks for the rows that hold one and
leaves the rest alone; any other device clips all of them in kernels over whole lists of tensors, and is not
waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1 << 17
"""Elements whose intermediate results stay in a CPU's cache."""


def clip_by_history(gradients: Sequence[Tensor], moments: Sequence[Tensor], thetas: Tensor) -> None:
    """Each |g| <= sqrt(theta v), in place; where v is 0 there is no limit. What is not finite stays so.

    gradients, moments: tensors of equal shapes, at least one, none empty; moments are the v.
    thetas: one for each pair, in (0, inf].
    """
    pairs = list(zip(gradients, moments, strict=True))
    if all(looking_is_free(g) and g.is_contiguous() and v.is_contiguous() for g, v in pairs):
        for (g, v), theta in zip(pairs, thetas.tolist(), strict=True):
            _clip_rows(g, v, theta)
    else:
        _clip_lists(list(gradients), list(moments), thetas)


def looking_is_free(tensor: Tensor) -> bool:
    """Whether nobody has to be waited for to read it."""
    return tensor.device.type == "cpu"


def _clip_rows(gradient: Tensor, moment: Tensor, theta: float) -> None:
    rows = len(gradient) if gradient.ndim > 1 else 1
    gradient, moment = gradient.view(rows, -1), moment.view(rows, -1)
    many = max(1, _BLOCK // gradient.shape[1])
    for g, v in zip(torch.split(gradient, many), torch.split(moment, many), strict=True):
        room = torch.addcmul(v, g, g, value=-1.0 / theta)
        found = (room.amin(1) < 0.0).nonzero().squeeze(1)
        if len(found):
            g[found] = _clipped(g[found], v[found], theta)


def _clipped(gradient: Tensor, moment: Tensor, theta: float) -> Tensor:
    limit = (moment * theta).sqrt_()
    limit.masked_fill_((limit == 0.0) | gradient.isinf(), math.inf)
    return torch.clamp(gradient, limit.neg(), limit)


def _clip_lists(gradients: list[Tensor], moments: list[Tensor], thetas: Tensor) -> None:
    # Who measures next must see an infinite gradient: the limits of its tensor are NaN, and so it becomes.
    largest = torch.stack([each.float() for each in torch._foreach_norm(gradients, math.inf)])
    limits = torch._foreach_mul(moments, list((thetas + 0.0 * largest).unbind()))
    torch._foreach_sqrt_(limits)
    for each in limits:
        F.threshold(each, 0.0, math.inf, inplace=True)  # no history, no limit
    torch._foreach_minimum_(gradients, limits)
    torch._foreach_neg_(limits)
    torch._foreach_maximum_(gradients, limits)
