"""What a weight is worth: pruning methods by name. The lowest scores go first.

A method is a function of what is known about a tensor (`Evidence`). `bitter0` to `bitter10` are the scores
that github.com/mcgrof/AdamWPrune published in 2025; where a name changed its meaning, both are here under
dated names. They are hypotheses, not recommendations: with the fixed epsilons there, `bitter7` and `bitter8`
rank as plain magnitude does wherever the second moment is below epsilon. `state` is the same idea without a
scale: its epsilon is relative to the tensor's mean second moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchstone._registry import Registry

E = 1e-8
"""The published epsilon of most scores."""
SKETCH = 64
"""Elements of a tensor that bitter10s watches."""
STEADY = 0.9
"""Decay of what bitter10s remembers."""


@dataclass(frozen=True)
class Evidence:
    """What is known about one tensor when its mask is made; all in float32, of the weight's shape."""

    w: Tensor
    m: Tensor
    """Adam's first moment; zeros for an optimizer without one."""
    v: Tensor
    """Adam's second moment, not corrected for bias."""
    unbiased: Tensor
    """1 - beta1^t, 0-dim: what divides m to correct its bias."""
    epsilon: float
    """`prune.epsilon`."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What the method keeps about this tensor, by name."""


Score = Callable[[Evidence], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to tell what a weight is worth."""

    name: str
    score: Score
    summary: str
    """The score, as a formula."""
    source: str
    by_state: bool = False
    """Whether it reads Adam's moments."""
    keeps: str | None = None
    """What is remembered of every weight, in float32: `start`, `summed` or `snapshot`."""
    observe: Callable[[Evidence], None] | None = None
    """Called before each scoring, to bring the memory up to date."""
    regrows: bool = False
    """Whether a pruned weight may come back."""
    scope: str | None = None
    """The only `prune.scope` it is defined for. None: any."""


METHODS: Registry[Method] = Registry("pruning method")
_LAB = "github.com/mcgrof/AdamWPrune (2025)"


# --- scores -------------------------------------------------------------------------------------


def magnitude(e: Evidence) -> Tensor:
    return e.w.abs()


def movement(e: Evidence) -> Tensor:
    return e.memory["summed"]


def displacement(e: Evidence) -> Tensor:
    return e.w * (e.w - e.memory["start"])


def state(e: Evidence) -> Tensor:
    mean = e.v.mean()
    relative = e.v / torch.where(mean > 0.0, mean, torch.ones_like(mean))
    return e.w.abs() * _fourth_root(relative + e.epsilon)


def _fourth_root(x: Tensor) -> Tensor:
    return x.sqrt().sqrt_()  # a third of the time of a power


def bitter0(e: Evidence) -> Tensor:
    return (e.w * e.m).abs() * e.w.abs() / (e.v.sqrt() + E)


def bitter3(e: Evidence) -> Tensor:
    return e.w.abs() * (e.m.abs() + E).sqrt()


def bitter5(e: Evidence) -> Tensor:
    return -_shrinking(e) + 0.1 * e.w.abs()


def bitter5_inverted(e: Evidence) -> Tensor:
    return _shrinking(e) + 0.1 * e.w.abs()


def _shrinking(e: Evidence) -> Tensor:
    """Adam moves w by -m / sqrt(v): positive where that brings w nearer to zero."""
    return e.w.sign() * e.m / (e.v.sqrt() + E)


def bitter6(e: Evidence) -> Tensor:
    return bitter3(e) * (e.m.square() / (e.v + E)).sqrt()


def bitter7_first(e: Evidence) -> Tensor:
    return e.w.abs() / (e.v.sqrt() + 1e-6)


def bitter7_second(e: Evidence) -> Tensor:
    return e.w.abs() * _fourth_root(e.v.abs() + E)


def bitter8_first(e: Evidence) -> Tensor:
    return e.w.abs() * ((e.m / e.unbiased).abs() + E).sqrt()


def bitter8_second(e: Evidence) -> Tensor:
    w, v = e.w.half(), e.v.half()
    return (w.abs() * (v + 1e-5).rsqrt().rsqrt()).float()


def bitter9_first(e: Evidence) -> Tensor:
    return bitter3(e) - 0.1 * displacement(e)


def bitter10z(e: Evidence) -> Tensor:
    return bitter3(e) * e.m.abs() / (e.v.sqrt() + E)


def bitter10s(e: Evidence) -> Tensor:
    flipped, along, jitter = e.memory["steadiness"].unbind()
    return bitter3(e) * (1.0 - flipped) * along / (1.0 + jitter)


def bitter10c(e: Evidence) -> Tensor:
    along = _cosine(-e.m, e.w - e.memory["snapshot"]).clamp_min(0.0)
    return bitter3(e) * along / (1.0 + e.v.sqrt().mean())


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    length = a.norm() * b.norm()
    return (a * b).sum() / torch.where(length > 0.0, length, torch.ones_like(length))


def watch_sketch(e: Evidence) -> None:
    """Signs that flip, direction and length of the first moment, on some elements, from mask to mask."""
    places = torch.linspace(0, e.m.numel() - 1, SKETCH, device=e.m.device).long()
    now = e.m.flatten()[places]
    before = e.memory.get("sketch")
    if before is None:
        e.memory["steadiness"] = torch.tensor([0.0, 1.0, 0.0], device=e.m.device)
    else:
        flipped = (now.sign() != before.sign()).float().mean()
        length = before.norm()
        jitter = (now.norm() - length).abs() / torch.where(length > 0.0, length, torch.ones_like(length))
        seen = torch.stack([flipped, _cosine(now, before).clamp_min(0.0), jitter])
        e.memory["steadiness"] = STEADY * e.memory["steadiness"] + (1.0 - STEADY) * seen
    e.memory["sketch"] = now


# --- records ------------------------------------------------------------------------------------

for _method in (
    Method(
        name="magnitude",
        score=magnitude,
        summary="|w|",
        source="Han et al. 2015, arXiv:1506.02626; while training: Zhu & Gupta 2017, arXiv:1710.01878",
    ),
    Method(
        name="movement",
        score=movement,
        summary="-sum over steps of w dL/dw",
        source="Sanh, Wolf & Rush 2020, Movement Pruning, arXiv:2005.07683, equation 3",
        keeps="summed",
    ),
    Method(
        name="movement_displacement",
        score=displacement,
        summary="w (w - w at the start)",
        source=f"{_LAB}, under the name of movement",
        keeps="start",
    ),
    Method(
        name="state",
        score=state,
        summary="|w| (v / mean(v) + prune.epsilon)^(1/4)",
        source="here; the scale-free form of bitter7",
        by_state=True,
    ),
    Method(
        name="bitter0",
        score=bitter0,
        summary="|w m| |w| / (sqrt(v) + 1e-8)",
        source=_LAB,
        by_state=True,
    ),
    Method(name="bitter1", score=magnitude, summary="|w|", source=_LAB),
    Method(
        name="bitter2",
        score=magnitude,
        summary="|w|; what was 21 % more steps there is no matter of a score",
        source=_LAB,
    ),
    Method(
        name="bitter3",
        score=bitter3,
        summary="|w| sqrt(|m| + 1e-8)",
        source=_LAB,
        by_state=True,
    ),
    Method(
        name="bitter4",
        score=bitter3,
        summary="bitter3, deeper layers sparser (prune.scope = depth)",
        source=_LAB,
        by_state=True,
        scope="depth",
    ),
    Method(
        name="bitter5",
        score=bitter5,
        summary="-sign(w) m / (sqrt(v) + 1e-8) + 0.1 |w|: growing weights stay",
        source=f"{_LAB}, its intent",
        by_state=True,
    ),
    Method(
        name="bitter5_inverted_2025",
        score=bitter5_inverted,
        summary="historical: sign(w) m / (sqrt(v) + 1e-8) + 0.1 |w|: shrinking weights stay",
        source=_LAB,
        by_state=True,
        regrows=True,
    ),
    Method(
        name="bitter6",
        score=bitter6,
        summary="bitter3 sqrt(m^2 / (v + 1e-8))",
        source=_LAB,
        by_state=True,
    ),
    Method(
        name="bitter7_to_20251105",
        score=bitter7_first,
        summary="|w| / (sqrt(v) + 1e-6)",
        source=f"{_LAB}, before commit 55b6c4b",
        by_state=True,
    ),
    Method(
        name="bitter7_from_20251106",
        score=bitter7_second,
        summary="|w| (v + 1e-8)^(1/4)",
        source=f"{_LAB}, since commit 55b6c4b",
        by_state=True,
    ),
    Method(
        name="bitter8_to_20251114",
        score=bitter8_first,
        summary="|w| sqrt(|m / (1 - beta1^t)| + 1e-8)",
        source=f"{_LAB}, before commit cfd59d2",
        by_state=True,
    ),
    Method(
        name="bitter8_from_20251115",
        score=bitter8_second,
        summary="|w| (v + 1e-5)^(1/4), in float16",
        source=f"{_LAB}, since commit cfd59d2",
        by_state=True,
    ),
    Method(
        name="bitter9_to_20251114",
        score=bitter9_first,
        summary="bitter3 - 0.1 w (w - w at the start)",
        source=f"{_LAB}, before commit cfd59d2",
        by_state=True,
        keeps="start",
    ),
    Method(
        name="bitter9_from_20251115",
        score=bitter8_second,
        summary="as bitter8_from_20251115; it was compiled there",
        source=f"{_LAB}, since commit cfd59d2",
        by_state=True,
    ),
    Method(
        name="bitter10z",
        score=bitter10z,
        summary="bitter3 |m| / (sqrt(v) + 1e-8)",
        source=_LAB,
        by_state=True,
    ),
    Method(
        name="bitter10s",
        score=bitter10s,
        summary="bitter3 (1 - flips) cosine / (1 + jitter), of 64 elements of m from mask to mask",
        source=f"{_LAB}; measures by mean over elements, which it left open",
        by_state=True,
        observe=watch_sketch,
    ),
    Method(
        name="bitter10c",
        score=bitter10c,
        summary="bitter3 max(0, cos(-m, w - w at the last mask)) / (1 + mean sqrt(v))",
        source=f"{_LAB}; its sign of m would be 0 for every tensor that follows its gradient",
        by_state=True,
        keeps="snapshot",
    ),
):
    METHODS.add(_method)
