"""Knobs of a check job, and the list of all sections that a configuration file may hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from torchstone.config.schema import Section, knob
from torchstone.train.config import SECTIONS as TRAINING


class CheckConfig(Section):
    """`check.*`: which checks run, and how long they may take."""

    tiers: tuple[Annotated[int, Field(ge=1, le=5)], ...] = knob((1,), help="Tiers to run.")
    only: tuple[str, ...] = knob((), help="Run only these check ids.")
    skip: tuple[str, ...] = knob((), help="Leave these check ids out.")
    budget_s: float = knob(
        60.0,
        help="Rough time for the whole job; it chooses the probe plan beforehand.",
        unit="seconds",
        gt=0.0,
    )
    seed: int = knob(0, help="Seed of every probe.", ge=0)
    data: str | None = knob(
        None, help="Data that tier 5 scores the model on and compares; None takes a run's held-out part."
    )
    reference: str | None = knob(
        None, help="Data, or a saved profile, that `drift` compares with; None takes a run's own data."
    )
    baseline: str | None = knob(None, help="TARGET that the check `benchmark` trains beside the model.")
    glue: str | None = knob(None, help="Folder of GLUE's tasks for the check `glue`, or hub.")
    glue_task: str = knob("sst2", help="The task of GLUE.", depends_on="check.glue!=none")


SECTIONS: dict[str, type[Section]] = {**TRAINING, "check": CheckConfig}
"""A check reads the model's knobs too; a training job takes its part with `Resolved.select`."""
