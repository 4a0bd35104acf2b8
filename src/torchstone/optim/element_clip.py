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
    known: list[float] | None = None
    rest = []
    for place, (g, v) in enumerate(zip(gradients, moments, strict=True)):
        if looking_is_free(g) and g.is_contiguous() and v.is_contiguous():
            known = thetas.tolist() if known is None else known
            _clip_rows(g, v, known[place])
        else:
            rest.append(place)
    if rest:
        some = thetas if known is None else thetas[rest]
        _clip_lists([gradients[place] for place in rest], [moments[place] for place in rest], some)


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
            clipped = _clipped(g.index_select(0, found), v.index_select(0, found), theta)
            g.index_copy_(0, found, clipped)


def _clipped(gradient: Tensor, moment: Tensor, theta: float) -> Tensor:
    limit = F.threshold((moment * theta).sqrt_(), 0.0, math.inf, inplace=True)  # no history, no limit
    limit += 0.0 * gradient.abs().amax(1, keepdim=True)  # NaN in a row with an infinite gradient
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
