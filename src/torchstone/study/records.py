"""What a study is made of: the file's own words, the arms that follow from them, and their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchstone.config.resolve import Resolved

Kind = Literal["matrix", "ablation"]
Settings = Mapping[str, Any]
"""Key of a knob -> value, as in `set = {...}`."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an ablation: a small difference to its parent, and what it claims."""

    id: str
    parent: str | None = None
    """Id of the step it differs from; None: the study's base."""
    name: str = ""
    describe: str = ""
    set: Settings = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    """Key -> `file:line`."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class AxisValue:
    """One value of an axis: what it is called in ids, and what it sets."""

    name: str
    set: Settings
    places: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    """Against the arm that has this axis at its first value and is otherwise the same."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a matrix."""

    name: str
    values: tuple[AxisValue, ...]
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Combinations that make no sense: those with one of the named values on every named axis."""

    drop: Mapping[str, tuple[str, ...]]
    reason: str
    where: str = ""

    def matches(self, values: Mapping[str, str]) -> bool:
        """`values`: axis -> name of its value."""
        return _fits(self.drop, values)


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """What is set for some combinations beside their axes, as the learning rate that suits them."""

    arms: Mapping[str, tuple[str, ...]]
    """Axis -> names of its values; an axis without effect in a combination has none there."""
    set: Settings
    reason: str
    places: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    def matches(self, values: Mapping[str, str]) -> bool:
        """`values`: axis -> name of its value, of the axes that have an effect."""
        return _fits(self.arms, values)


def _fits(wanted: Mapping[str, tuple[str, ...]], values: Mapping[str, str]) -> bool:
    return all(values.get(axis) in names for axis, names in wanted.items())


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study file, read and found sound in itself."""

    name: str
    kind: Kind
    path: Path
    label: str
    """The file's name in messages."""
    base: str | None = None
    """Defconfig, or file of knobs, that every arm starts from; None: the defaults."""
    describe: str = ""
    seeds: tuple[int, ...] = (1,)
    metric: str = "val/loss"
    set: Settings = field(default_factory=dict)
    """Common to all arms."""
    places: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    axes: tuple[Axis, ...] = ()
    rules: tuple[Rule, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A step, or a combination of axis values: one configuration, to be run once for each seed."""

    id: str
    parent: str | None
    """The arm that claims are measured against."""
    name: str
    describe: str
    set: Settings
    """What differs from the parent; for an arm without one, from the study's base."""
    claims: Mapping[str, Any]
    settings: Resolved
    """The seed in it is the base's; cells have their own."""
    where: str
    values: Mapping[str, str] = field(default_factory=dict)
    """Axis -> name of its value, of a matrix."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm with one seed: one training job."""

    id: str
    """The first 12 hex digits of the hash of what the job obeys; the same everywhere and always."""
    study: str
    arm: str
    seed: int
    settings: Resolved

    @property
    def name(self) -> str:
        """`ratio/5/seed-1`"""
        return f"{self.study}/{self.arm}/seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A combination that is not run, and why."""

    id: str
    values: Mapping[str, str]
    reason: str
