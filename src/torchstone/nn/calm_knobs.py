"""Knobs of what waits until the loss has calmed (`switch.VarianceGuided`), wherever it is."""

from __future__ import annotations

from typing import Any

from torchstone.config.schema import knob


def calm_knobs(depends_on: str) -> tuple[Any, Any, Any, Any]:
    """`activation_window`, `max_variation`, `max_slope` and `ramp_steps`, shown under a condition."""
    return (
        knob(
            500,
            help="Steps over which the loss is looked at.",
            unit="optimizer steps",
            ge=2,
            depends_on=depends_on,
        ),
        knob(
            0.2,
            help="Standard deviation of a calm loss in its window, in means.",
            gt=0.0,
            depends_on=depends_on,
        ),
        knob(
            0.1,
            help="Change of a calm loss from one end of its window to the other, per step.",
            unit="loss per optimizer step",
            gt=0.0,
            depends_on=depends_on,
        ),
        knob(
            100,
            help="Steps over which what waited grows from nothing to its weight.",
            unit="optimizer steps",
            ge=0,
            depends_on=depends_on,
        ),
    )
