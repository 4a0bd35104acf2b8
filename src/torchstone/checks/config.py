"""Knobs of a check job."""

from __future__ import annotations

from torchstone.config.schema import Section, knob


class CheckConfig(Section):
    """`check.*`"""

    tiers: tuple[int, ...] = knob((1,), help="Tiers to run, 1 to 5.")
    only: tuple[str, ...] = knob((), help="Run only these check ids.")
    skip: tuple[str, ...] = knob((), help="Leave these check ids out.")
    budget_s: float = knob(
        60.0,
        help="Rough time for the whole job; it chooses the probe plan beforehand.",
        unit="seconds",
        gt=0.0,
    )
    seed: int = knob(0, help="Seed of every probe.", ge=0)
