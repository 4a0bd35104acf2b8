"""The arms of a matrix: one for each combination of values that differs from the others in what it does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torchstone._errors import ConfigError
from torchstone.config.knobs import knobs_of
from torchstone.config.layers import BACK_TO_DEFAULT
from torchstone.config.mistakes import Mistake
from torchstone.config.resolve import Resolved
from torchstone.config.values import in_effect
from torchstone.study.records import Adjustment, Arm, Axis, AxisValue, Dropped, Study


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An arm before its configuration is resolved: what it sets in turn, on top of the base."""

    layers: tuple[AxisValue, ...]
    """Of an ablation, the steps from the root to this one; of a matrix, one value per axis."""
    step: int = 0
    """Place in the file."""


def arms_of_matrix(
    drafts: Iterable[Draft], study: Study, base: Resolved, mistakes: list[Mistake]
) -> tuple[list[Arm], list[Dropped]]:
    """One arm for each combination that no rule drops, with the parent that it is measured against."""
    arms: dict[str, Arm] = {}
    dropped: list[Dropped] = []
    for draft in drafts:
        values = {axis.name: value.name for axis, value in zip(study.axes, draft.layers, strict=True)}
        rule = next((each for each in study.rules if each.matches(values)), None)
        if rule is not None:
            dropped.append(Dropped(id=_joined(values), values=values, reason=rule.reason))
            continue
        idle = _without_effect(draft, study, base)
        active = {axis: name for axis, name in values.items() if axis not in idle}
        id_ = _joined(active)
        if id_ in arms:
            reason = f"{' and '.join(idle)} has no effect here: the same as {id_}"
            dropped.append(Dropped(id=_joined(values), values=values, reason=reason))
            continue
        layers = [each for axis, each in zip(study.axes, draft.layers, strict=True) if axis.name in active]
        merged = _merged([*layers, *(each for each in study.adjustments if each.matches(active))])
        settings = layered(base, merged, mistakes)
        if settings is not None:
            arms[id_] = Arm(
                id=id_,
                parent=None,
                name=", ".join(f"{axis} {name}" for axis, name in active.items()) or "all of it",
                describe="",
                set=merged.set,
                claims={},
                settings=settings,
                where=study.label,
                values=active,
            )
    mistakes += _idle_adjustments(study, arms.values())
    adjusted = {key for each in study.adjustments for key in each.set}
    return [_with_parent(each, arms, study.axes, adjusted) for each in arms.values()], dropped


def _idle_adjustments(study: Study, arms: Iterable[Arm]) -> Iterator[Mistake]:
    for each in study.adjustments:
        if not any(each.matches(arm.values) for arm in arms):
            yield Mistake(
                what="no arm is left that this adjusts",
                where=each.where,
                why="rules drop them, or a named axis has no effect in them",
            )


def _joined(values: Mapping[str, str]) -> str:
    return "_".join(values.values()) or "all"


def _merged(layers: Sequence[AxisValue | Adjustment]) -> AxisValue:
    settings: dict[str, object] = {}
    places: dict[str, str] = {}
    for each in layers:
        settings |= each.set
        places |= each.places
    return AxisValue(name="", set=settings, places=places)


def _without_effect(draft: Draft, study: Study, base: Resolved) -> list[str]:
    """Axes of which no knob can do anything in this combination, as a sparsity where nothing is pruned."""
    knobs = knobs_of(base.sections)
    merged = _merged(draft.layers).set
    values = base.plain | {
        key: knobs[key].default if value == BACK_TO_DEFAULT else value
        for key, value in merged.items()
        if key in knobs
    }
    idle = []
    for axis, layer in zip(study.axes, draft.layers, strict=True):
        known = [key for key in layer.set if key in knobs]
        if known and not any(in_effect(key, knobs, values) for key in known):
            idle.append(axis.name)
    return idle


def _with_parent(arm: Arm, arms: Mapping[str, Arm], axes: Sequence[Axis], adjusted: Collection[str]) -> Arm:
    """The arm that has the last possible axis at its first value, and is otherwise the same."""
    by_values = {tuple(sorted(each.values.items())): each for each in arms.values()}
    for axis in reversed(axes):
        value = next((each for each in axis.values if each.name == arm.values.get(axis.name)), None)
        if value is None or value is axis.values[0]:
            continue
        others = {**arm.values, axis.name: axis.values[0].name}
        parent = by_values.get(tuple(sorted(others.items()))) or _without_axis(others, arms)
        if parent is not None:
            ours, theirs = arm.settings.plain, parent.settings.plain
            tuned = {key: ours[key] for key in sorted(adjusted) if ours.get(key) != theirs.get(key)}
            return replace(arm, parent=parent.id, set={**value.set, **tuned}, claims=value.claims)
    return arm


def _without_axis(values: Mapping[str, str], arms: Mapping[str, Arm]) -> Arm | None:
    """The arm that these values lead to where some of them have no effect."""
    return next((each for each in arms.values() if each.values.items() <= values.items()), None)


def layered(above: Resolved, layer: AxisValue, mistakes: list[Mistake]) -> Resolved | None:
    try:
        return above.with_values(layer.set, layer.places)
    except ConfigError as error:
        mistakes.append(Mistake(what=error.what, where=error.where, why=error.why, next=error.next))
        return None
