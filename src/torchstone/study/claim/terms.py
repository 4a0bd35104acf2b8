"""What a claim says: the effect, the arms, and where their runs are. `claim_file.py` reads it from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone.study.claim.recorded import Statement

BASELINE = "baseline"
DIRECTIONS = ("lower", "higher")
BUDGETS = ("tokens", "time")
MOMENTS = ("end", "best")


@dataclass(frozen=True)
class Size:
    """How large the effect is said to be, in the direction of the claim."""

    scale: str
    """relative (to the baseline), absolute (in units of the metric)."""
    least: float
    """0 where only the direction is claimed."""

    def __str__(self) -> str:
        if not self.least:
            return "any"
        return f"relative {self.least:.4g} %" if self.scale == "relative" else f"absolute {self.least:.4g}"


@dataclass(frozen=True)
class Selection:
    """Runs named by where they are and what they carry."""

    origin: str
    """runs: the store; wandb: an export; run: one run by id or folder."""
    place: str
    """File of an export, or the run's id or folder; empty for the store."""
    wanted: tuple[tuple[str, str], ...] = ()
    """All of these must hold: tag, name, group, id, or a configuration key, and its value."""

    def __str__(self) -> str:
        wanted = ",".join(f"{key}={value}" for key, value in self.wanted)
        if self.origin == "run":
            return self.place
        return ":".join(part for part in (self.origin, self.place, wanted) if part)


@dataclass(frozen=True, kw_only=True)
class StatedRun:
    """A run that is known from what the claim file says of it."""

    id: str
    statements: Mapping[str, tuple[Statement, ...]]
    config: Mapping[str, Any]
    where: str


@dataclass(frozen=True, kw_only=True)
class ArmSource:
    """What a claim file says of one arm."""

    name: str
    selections: tuple[Selection, ...]
    stated: tuple[StatedRun, ...]
    said: Mapping[str, tuple[Statement, ...]]
    """Statements about every run of the arm, beside what the runs recorded."""
    where: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison and what is said to come of it."""

    title: str
    metric: str
    direction: str
    size: Size
    arms: tuple[ArmSource, ...]
    """The baseline first; each other arm is compared with it."""
    varies: tuple[str, ...] = ()
    """Configuration keys (globs) and facts in which the arms differ on purpose."""
    budget: str = "tokens"
    """What the arms spend equally."""
    at: str = "end"
    """Where the metric is read: at the end of a run, or at its best."""
    confidence: float = 0.95
    ignores: Mapping[str, str] = field(default_factory=dict)
    """Configuration key (glob) -> why it changes no result."""
    repository: str = "."
    """Where commits are looked up, from the claim file's folder."""
    wandb: Mapping[str, str] = field(default_factory=dict)
    """Fact -> where an export keeps it: config.KEY, summary.KEY or metadata.KEY."""
    path: Path
    text: str
    """The file itself, so that a page can be judged again."""


def parse_effect(text: str) -> Size | None:
    """`relative 5 %`, `absolute 0.02` or `any`; None if it is none of these."""
    if text.strip() == "any":
        return Size("absolute", 0.0)
    found = re.fullmatch(r"(relative)\s+([0-9.eE+-]+)\s*%|(absolute)\s+([0-9.eE+-]+)", text.strip())
    if found is None:
        return None
    try:
        least = float(found[2] or found[4])
    except ValueError:
        return None
    scale = found[1] or found[3]
    sound = 0 <= least < (100 if scale == "relative" else float("inf"))
    return Size(scale, least) if sound else None


def parse_selection(text: str) -> Selection:
    """`runs:tag=NAME`, `cells:STUDY/ARM`, `wandb:FILE:tag=NAME`, or a run's id or folder."""
    if text.startswith("runs:"):
        return Selection("runs", "", _conditions(text.removeprefix("runs:"), text))
    if text.startswith("cells:"):
        study, _, arm = text.removeprefix("cells:").partition("/")
        if not study or not arm:
            raise ValueError(f"{text!r} does not say which arm of which study")
        tags = f"study={study}", f"arm={arm}"  # as a study tags its cells
        return Selection("runs", "", tuple(("tag", tag) for tag in tags))
    if text.startswith("wandb:"):
        rest = text.removeprefix("wandb:")
        place, colon, wanted = rest.rpartition(":")
        if colon and "=" in wanted:
            return Selection("wandb", place, _conditions(wanted, text))
        return Selection("wandb", rest)
    return Selection("run", text)


def _conditions(text: str, whole: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ValueError(f"{whole!r} does not say which runs")
        pairs.append((key.strip(), value.strip()))
    return tuple(pairs)
