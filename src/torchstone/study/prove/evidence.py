"""What is known of one arm, and how two arms are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from torchstone.config.resolve import Resolved
from torchstone.study.prove.bench import Bench
from torchstone.study.prove.full_size import FullSize
from torchstone.study.prove.trial import Trial, draw_alike, evaluated, sharpen
from torchstone.study.prove.twin import Scale, tokens_per_update
from torchstone.study.records import Arm

SAME = 1e-6
"""Relative difference, in double precision, below which two functions are one."""


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim, what was expected and what was measured."""

    claim: str
    expected: str
    measured: str | int | float | None
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "claim": self.claim,
            "expected": self.expected,
            "measured": self.measured,
            "holds": self.holds,
        }


@dataclass(kw_only=True)
class Evidence:
    """What is known of one arm."""

    arm: Arm
    full: FullSize
    twin: Resolved
    trial: Trial
    scale: Scale
    bench: Bench

    def quantity(self, name: str) -> int | float | None:
        """The value of a claim that is a number."""
        if name == "tokens_per_update":
            return tokens_per_update(self.arm.settings, self.full.config.get("max_seq_len"))
        if name == "updates":
            loop = self.arm.settings.train
            return int(loop.max_steps) if loop.max_steps is not None else int(loop.epochs)
        value: int | float | None = getattr(self.full, name)
        return value


# --- comparing two arms ---------------------------------------------------------------------------


def update_difference(own: Evidence, other: Evidence) -> float | None:
    """Relative difference of the ways that shared parameters went; None where they share none."""
    above, below = 0.0, 0.0
    for name, value in own.trial.trained.items():
        before = other.trial.trained.get(name)
        if before is not None and before.shape == value.shape:
            above = max(above, float((value - before).abs().max()))
            below = max(below, float((value - own.trial.drawn[name]).abs().max()))
    if not below:
        return None
    return above / below


def matching(wish: str, names: Mapping[str, Any]) -> list[str]:
    """Parameters that a pattern, the end of a name, or a knob's key without `model.` stands for."""
    ends = (wish, wish.removeprefix("model."))
    return [
        name
        for name in names
        if fnmatchcase(name, wish) or any(name == end or name.endswith(f".{end}") for end in ends)
    ]


def output_with(own: Evidence, changes: dict[str, Any]) -> Tensor:
    """The output of the arm with other knobs, sizes at full scale."""
    sizes = own.scale.sizes or {}
    small = {
        key: sizes.get((key, value), value) if isinstance(value, int) else value
        for key, value in changes.items()
    }
    loaded = own.bench.load(own.arm.id, own.twin.with_values(small, "the claim"))
    sharpen(loaded)
    draw_alike(loaded.module)
    return evaluated(loaded)


def relative(ours: Tensor | None, theirs: Tensor | None) -> float | None:
    """Largest difference over the spread; None where the two cannot be compared."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300))


def told(difference: float | None) -> str:
    """What `relative` found, in words."""
    if difference is None:
        return "cannot be compared"
    return f"differs by {difference:.1e}" if difference else "equal"


def assigned(settings: Mapping[str, Any]) -> str:
    """`model.attention.alpha = 0.0, ...`"""
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def listed(names: list[str]) -> str:
    """At most three of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
