"""The study job: a pipe of plain functions, from a file to a proof.

read -> expand -> drop_impossible -> select -> prove

proof = check(StudyJob("widths", steps=("0", "1")))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone.study.plan import Plan, base_of, plan_study, select
from torchstone.study.study_file import read_study

if TYPE_CHECKING:
    from torchstone.study.prove.proof import Proof


@dataclass(frozen=True)
class StudyJob:
    """Which study, which part of it, and what it starts from."""

    study: str
    """Name, or path of a .toml file."""
    only: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    config: Path | None = None
    """A file of knobs in place of the study's base."""
    overrides: tuple[tuple[str, str | None], ...] = ()
    """(key, text) for all arms."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Where CONFIG_ variables are looked for."""


def planned(job: StudyJob) -> Plan:
    """Every cell that the job means, and what was dropped on the way."""
    study = read_study(job.study)
    base = base_of(study, file=job.config, overrides=job.overrides, environ=job.environ)
    plan = plan_study(study, base)  # expand, drop_impossible
    return select(plan, only=job.only, steps=job.steps, seeds=job.seeds)


def check(job: StudyJob, progress: Callable[[str], None] | None = None) -> Proof:
    """Prove every chosen arm; nothing is written and nothing costs."""
    from torchstone.study.prove.proof import prove

    return prove(planned(job), progress=progress)
