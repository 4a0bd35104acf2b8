"""Knobs of a study, and the list of all sections that a configuration file may hold."""

from __future__ import annotations

from torchstone.checks.config import SECTIONS as CHECKS
from torchstone.config.schema import Section, knob


class StudyConfig(Section):
    """`study.*`: what `make` and `make check` are about beyond a single model."""

    name: str | None = knob(
        None, help="The study that is proven and run, by name or path; None: the model alone."
    )


SECTIONS: dict[str, type[Section]] = {**CHECKS, "study": StudyConfig}
