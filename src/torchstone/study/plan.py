"""From a study's words to the jobs it means: expand, drop what cannot be, select. Plain functions, no torch.

plan = plan_study(read_study("ratio"))
plan.arms, plan.dropped, plan.cells
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from torchstone._errors import ConfigError, UsageError
from torchstone._registry import suggest
from torchstone.config.knobs import knobs_of
from torchstone.config.mistakes import Mistake, raise_all
from torchstone.config.resolve import Resolved, resolve
from torchstone.study.config import SECTIONS as EVERY_SECTION
from torchstone.study.matrix import Draft, arms_of_matrix, layered
from torchstone.study.records import Adjustment, Arm, AxisValue, Cell, Dropped, Step, Study
from torchstone.train.config import SECTIONS

SEED = "train.random_seed"
ID_DIGITS = 12
_NOT_OF_A_CELL = "tracking"
"""What a run is called and how often it writes does not make it another one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study comes to, and what of it was chosen."""

    study: Study
    base: Resolved
    arms: tuple[Arm, ...]
    """All of them, in the file's order: a chosen one may be measured against one that is not."""
    dropped: tuple[Dropped, ...]
    cells: tuple[Cell, ...]
    """The chosen ones: every seed of an arm together, arms in the file's order."""

    def arm(self, id_: str) -> Arm:
        return next(each for each in self.arms if each.id == id_)

    @property
    def chosen_arms(self) -> tuple[Arm, ...]:
        wanted = {each.arm for each in self.cells}
        return tuple(each for each in self.arms if each.id in wanted)

    @property
    def combinations(self) -> int:
        return len(self.arms) + len(self.dropped)


def plan_study(study: Study, base: Resolved | None = None) -> Plan:
    """All cells of a study; `base` where something else than the study's own is meant."""
    base = base or base_of(study)
    drafts = expand(study)
    arms, dropped = drop_impossible(drafts, study, base)
    cells = [cell_of(study, arm, seed) for arm in arms for seed in study.seeds]
    return Plan(study=study, base=base, arms=tuple(arms), dropped=tuple(dropped), cells=tuple(cells))


def base_of(
    study: Study,
    *,
    file: Path | None = None,
    overrides: Sequence[tuple[str, str | None]] = (),
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """What every arm starts from: the study's base, or `file` in its place, and what is on top.

    An override may not touch what tells the arms apart: they would all become the same.
    """
    from torchstone.config.layers import from_environment

    if file is None:
        defconfig, file = _base_file(study)
    else:
        defconfig = None
    knobs = knobs_of(SECTIONS)
    touched = {key for key, _ in overrides} | {
        each.key for each in from_environment(environ or {}, knobs, [])
    }
    for key in sorted(touched & set(_keys_of(study))):
        raise ConfigError(
            f"{key} is what the study {study.name} varies",
            where=_keys_of(study)[key],
            why="set for all of it, it would make arms equal",
            next="change it in the study, or leave it out",
        )
    if SEED in touched:
        raise ConfigError(
            f"{SEED} is the seed of a cell", next="torchstone study --seeds 1,2, or [study] seeds"
        )
    found = resolve(EVERY_SECTION, defconfig=defconfig, file=file, overrides=overrides, environ=environ)
    return found.select(SECTIONS).with_values(study.set, study.places)


def _base_file(study: Study) -> tuple[str | None, Path | None]:
    """(defconfig, file) of the study's `base`: beside the study, in this folder, or a defconfig by name."""
    if study.base is None:
        return None, None
    for path in (study.path.parent / study.base, Path(study.base)):
        if path.is_file():
            return None, path
    name = study.base.removeprefix("defconfigs/")
    try:
        from torchstone.config.defconfigs import find

        find(name)
    except ConfigError as error:
        where = f"{study.label}, base"
        raise ConfigError(error.what, where=where, why=error.why, next=error.next) from None
    return name, None


def _keys_of(study: Study) -> dict[str, str]:
    """Every key that tells arms apart, with a place that sets it."""
    found: dict[str, str] = {}
    values = (value for axis in study.axes for value in axis.values)
    parts: list[Step | AxisValue | Adjustment] = [*study.steps, *values, *study.adjustments]
    for each in parts:
        found |= {key: place for key, place in each.places.items() if key not in found}
    return found


# --- expand ---------------------------------------------------------------------------------------


def expand(study: Study) -> list[Draft]:
    """Every step, or every combination of axis values, in the file's order."""
    if study.kind == "matrix":
        return [Draft(layers=each) for each in itertools.product(*(axis.values for axis in study.axes))]
    drafts: dict[str, Draft] = {}
    for place, step in enumerate(study.steps):
        above = drafts[step.parent].layers if step.parent is not None else ()
        own = AxisValue(name=step.id, set=step.set, places=step.places, claims=step.claims)
        drafts[step.id] = Draft(layers=(*above, own), step=place)
    return list(drafts.values())


# --- drop what cannot be --------------------------------------------------------------------------


def drop_impossible(drafts: Iterable[Draft], study: Study, base: Resolved) -> tuple[list[Arm], list[Dropped]]:
    """Arms with their configurations, and the combinations that a rule or a dependency between knobs forbids.

    Every mistake in every arm is told at once.
    """
    mistakes: list[Mistake] = []
    if study.kind == "ablation":
        arms = list(_arms_of_steps(drafts, study, base, mistakes))
        dropped: list[Dropped] = []
    else:
        arms, dropped = arms_of_matrix(drafts, study, base, mistakes)
    raise_all(mistakes)
    if not arms:
        raise ConfigError(
            f"nothing is left of the study {study.name}", why=f"its rules drop all of {len(dropped)}"
        )
    return arms, dropped


def _arms_of_steps(
    drafts: Iterable[Draft], study: Study, base: Resolved, mistakes: list[Mistake]
) -> Iterator[Arm]:
    resolved: dict[str, Resolved] = {}
    for draft in drafts:
        step = study.steps[draft.step]
        if step.parent is not None and step.parent not in resolved:
            continue  # its parent is wrong, which is told
        settings = layered(resolved.get(step.parent or "", base), draft.layers[-1], mistakes)
        if settings is None:
            continue
        resolved[step.id] = settings
        yield Arm(
            id=step.id,
            parent=step.parent,
            name=step.name or step.id,
            describe=step.describe,
            set=step.set,
            claims=step.claims,
            settings=settings,
            where=step.where,
        )


# --- cells ----------------------------------------------------------------------------------------


def cell_of(study: Study, arm: Arm, seed: int) -> Cell:
    """The job of one arm with one seed."""
    settings = arm.settings.with_values({SEED: seed}, f"{study.label}, seeds")
    return Cell(id=cell_id(settings), study=study.name, arm=arm.id, seed=seed, settings=settings)


def cell_id(settings: Resolved) -> str:
    """Hash of everything that makes a run another run; names and how often rows are written do not."""
    names = [each for each in settings.sections if each != _NOT_OF_A_CELL]
    return settings.select(names).hash[:ID_DIGITS]


# --- select ---------------------------------------------------------------------------------------


def select(
    plan: Plan,
    *,
    only: Sequence[str] = (),
    steps: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Plan:
    """The cells that were asked for; a wish that fits none is an error.

    `only` holds ids of arms (with * and ?), beginnings of cell ids, and axis=value; values of one axis are
    alternatives, axes are conditions. `steps` are ids of an ablation's steps.
    """
    study, cells = plan.study, list(plan.cells)
    if steps and study.kind == "matrix":
        raise UsageError(
            f"the study {study.name} is a matrix and has no steps", next="--only ARM, or --only AXIS=VALUE"
        )
    if steps:
        _require(steps, [each.id for each in plan.arms], "step", study)
        cells = [each for each in cells if each.arm in steps]
    if seeds:
        _require([str(each) for each in seeds], [str(each) for each in study.seeds], "seed", study)
        cells = [each for each in cells if each.seed in seeds]
    named = [each for each in only if "=" not in each]
    for wish in named:
        if not any(_fits(each, wish) for each in plan.cells):
            known = [each.id for each in plan.arms]
            raise UsageError(f"--only {wish} fits no cell of {study.name}", why=suggest(wish, known),
                             next=f"torchstone study show {study.name}")  # fmt: skip
    if named:
        cells = [each for each in cells if any(_fits(each, wish) for wish in named)]
    for axis, values in _by_axis(only, study).items():
        cells = [each for each in cells if plan.arm(each.arm).values.get(axis) in values]
    if not cells:
        raise UsageError(
            f"no cell of {study.name} is all of that at once", next=f"torchstone study show {study.name}"
        )
    return replace(plan, cells=tuple(cells))


def _fits(cell: Cell, wish: str) -> bool:
    return fnmatchcase(cell.arm, wish) or (len(wish) >= 4 and cell.id.startswith(wish))


def _by_axis(only: Sequence[str], study: Study) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for axis, _, value in (each.partition("=") for each in only if "=" in each):
        known = {each.name: [value.name for value in each.values] for each in study.axes}
        _require([axis], list(known), "axis", study)
        _require([value], known[axis], f"value of {axis}", study)
        wanted.setdefault(axis, set()).add(value)
    return wanted


def _require(wishes: Iterable[str], known: Sequence[str], what: str, study: Study) -> None:
    for each in wishes:
        if each not in known:
            raise UsageError(
                f"the study {study.name} has no {what} {each!r}",
                why="" if what == "seed" else suggest(each, known),
                next=f"it has: {', '.join(known)}" if known else f"it is of kind {study.kind}",
            )
