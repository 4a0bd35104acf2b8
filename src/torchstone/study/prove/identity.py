"""The same model with the same recipe under two names."""

from __future__ import annotations

from typing import Any

from torchstone.config.knobs import knobs_of
from torchstone.study.prove.evidence import SAME, Evidence, relative, update_difference
from torchstone.study.prove.facets import begins_elsewhere
from torchstone.study.prove.twin import SCALED_STEPS


def alike(own: Evidence, other: Evidence) -> bool:
    """Whether two arms are one model with one recipe, whatever their configurations say."""
    if own.full.shapes != other.full.shapes or not own.trial.trained or not other.trial.trained:
        return False
    if _recipe(own) != _recipe(other):
        return False
    if own.trial.data != other.trial.data or own.trial.rates != other.trial.rates:
        return False
    output = relative(own.trial.output, other.trial.output)
    update = update_difference(own, other)
    same = output is not None and output <= SAME and update is not None and update <= SAME
    return same and not begins_elsewhere(own, other, set())


def _recipe(each: Evidence) -> dict[str, Any]:
    """What the twin does not live through: data, loop, and intervals that shrank."""
    knobs = knobs_of(each.arm.settings.sections)
    plain = each.arm.settings.plain
    found = {key: value for key, value in plain.items() if key.startswith(("data.", "train."))}
    for key, knob in knobs.items():
        if knob.unit == SCALED_STEPS and key.startswith(("optim.", "prune.")):
            found[key] = (plain[key], each.twin.plain[key])
    return found
