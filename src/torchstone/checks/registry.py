"""The registry of checks. A check is one function in one file of a `tierN` package, registered there.

    CHECKS.add(Check("causal-leak", tier=1, title="...", proves="...", run=causal_leak))

The tier packages are imported when somebody asks for their checks, so that adding one touches one file.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchstone._errors import UsageError
from torchstone._registry import Registry

if TYPE_CHECKING:
    from torchstone.checks.context import Context
    from torchstone.tracking.records import CheckResult

ORDER = (
    "shape-robustness",
    "gradient-flow",
    "numerical-stability",
    "parameter-initialization",
    "memory-footprint",
    "inference-speed",
    "causal-leak",
    "padding-leak",
    "batch-leak",
    "state-leak",
    "eval-determinism",
    "dead-parameters",
    "unregistered-parameters",
    "position-sensitivity",
    "position-limit",
    "vocab-range",
    "init-loss",
    "overfit-one-batch",
    "residual-scale",
    "tied-weights",
    "save-load",
    "cache-parity",
    "low-precision",
)
"""Order in which reports show the checks of tier 1; an id that is absent here comes after them."""


@dataclass(frozen=True)
class Check:
    """One proof: `run` gets the context and says what it found."""

    name: str
    tier: int
    title: str
    """A few words for tables."""
    proves: str
    """The law, as one sentence that a healthy model fulfils."""
    run: Callable[[Context], CheckResult]


CHECKS: Registry[Check] = Registry("check")


def checks_of(tiers: Sequence[int]) -> list[Check]:
    """All checks of these tiers, in the order of the reports."""
    for tier in tiers:
        _import_tier(tier)
    found = [check for check in CHECKS if check.tier in tiers]
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(found, key=lambda check: (check.tier, rank.get(check.name, len(ORDER))))


def choose(tiers: Sequence[int], only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Check]:
    """The checks to run; `only` reaches into every tier, an unknown id is an error that suggests."""
    every = checks_of((1, 2, 3, 4, 5))
    for name in (*only, *skip):
        CHECKS.get(name)
    wanted = [check for check in every if (check.name in only if only else check.tier in tiers)]
    chosen = [check for check in wanted if check.name not in skip]
    if not chosen:
        raise UsageError(
            "no check is left to run",
            why=f"tiers={tuple(tiers)}, only={tuple(only)}, skip={tuple(skip)}",
            next="leave out --only and --skip, or choose --tier 1",
        )
    return chosen


def _import_tier(tier: int) -> None:
    package = f"torchstone.checks.tier{tier}"
    if importlib.util.find_spec(package) is None:
        return
    folder = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(folder):
        importlib.import_module(f"{package}.{module.name}")
