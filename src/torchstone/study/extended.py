"""Steps of one study in another, which has another base: the same differences, with sizes that fit there.

[study]
name = "ratio-tiny"
extends = "ratio"
base = "defconfigs/ratio-tiny"

[[step]]
id = "8"
set = { "model.attention.latent" = 16 }    # over what step 8 of ratio sets
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torchstone.study.prove.claims import at_another_size
from torchstone.study.records import Step


def extended(steps: Iterable[Step], changes: Iterable[Step]) -> tuple[Step, ...]:
    """`steps` with what `changes` say of those with the same id; claims hold at another size."""
    by_id = {each.id: each for each in changes}
    return tuple(_changed(each, by_id.get(each.id)) for each in steps)


def _changed(step: Step, change: Step | None) -> Step:
    claims = at_another_size(step.claims)
    if change is None:
        return replace(step, claims=claims)
    return replace(
        step,
        set={**step.set, **change.set},
        places={**step.places, **change.places},
        claims={**claims, **change.claims},
        where=change.where,
    )
