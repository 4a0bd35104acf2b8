"""What the arms of a study leave to the machine (`train.batch_size=0` ...), chosen once for all of them.

Each cell is a job of its own; were each to choose alone, arms would differ in what nobody asked for. The
choice lies beside the cells, so that a study that goes on with less memory free goes on alike.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchstone._errors import ConfigError
from torchstone._files import read_json, write_json
from torchstone.study.plan import Plan
from torchstone.train.config import LEFT_OPEN

if TYPE_CHECKING:
    from torchstone.train.auto import Choice

KEPT = "left_open.json"


def settled(
    plan: Plan, root: Path, *, where: str = "local", device: str | None = None, trust: bool | None = None
) -> Plan:
    """The plan with one choice in all of its arms and cells, whose ids stay; itself where nothing is open."""
    if not any(arm.settings.plain[key] == value for arm in plan.arms for key, value in LEFT_OPEN.items()):
        return plan
    choice = _kept(root)
    if choice is None and where != "local":
        raise ConfigError(
            "what is left open cannot be chosen for another machine",
            where=f"--on {where}",
            why="its memory is measured where the cells run",
            next="name train.batch_size and the others that are left open",
        )
    choice = choice or _chosen(plan, root, device, trust)
    return replace(
        plan,
        arms=tuple(replace(each, settings=choice.of(each.settings)) for each in plan.arms),
        cells=tuple(replace(each, settings=choice.of(each.settings)) for each in plan.cells),
    )


def _kept(root: Path) -> Choice | None:
    from torchstone.train.auto import Choice

    return Choice(**read_json(root / KEPT)) if (root / KEPT).is_file() else None


def _chosen(plan: Plan, root: Path, device: str | None, trust: bool | None) -> Choice:
    """Measured on every arm of the study, also on those that are not run now: the order decides nothing."""
    from torchstone.train.auto import Choice
    from torchstone.train.run import TrainJob, settle_arms

    settings = [each.settings for each in plan.arms]
    job = TrainJob(settings[0], device=device, trust=trust)
    choice = Choice.in_(settings[0], settle_arms(job, settings)[0])
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / KEPT, {"values": dict(choice.values), "why": dict(choice.why)})
    return choice
