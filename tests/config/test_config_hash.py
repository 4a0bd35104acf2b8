"""What the ids of cells rest on: the hash speaks of differences from the defaults that knobs came with."""

from __future__ import annotations

import json

from config.first_defaults import FILE, first_defaults
from hypothesis import given
from hypothesis import strategies as st

from torchstone.config.resolved import Resolved
from torchstone.config.schema import Section, knob


class Old(Section):
    width: int = knob(8, help="How wide it is.")
    rate: float = knob(0.1, help="How fast it goes.")


class WithANewKnob(Old):
    depth: int = knob(2, help="How deep it is.")


class WithANewDefault(Section):
    width: int = knob(16, help="How wide it is.", first_default=8)
    rate: float = knob(0.1, help="How fast it goes.")


def hash_of(section: type[Section], **values: object) -> str:
    return Resolved.of_sections({"model": section(**values)}).hash


widths, rates = st.integers(1, 20), st.floats(0.1, 0.5)


@given(widths, rates)
def test_a_new_knob_at_its_default_leaves_ids_alone(width: int, rate: float) -> None:
    old = hash_of(Old, width=width, rate=rate)
    assert hash_of(WithANewKnob, width=width, rate=rate) == old
    assert hash_of(WithANewKnob, width=width, rate=rate, depth=3) != old


@given(widths, widths, rates)
def test_a_new_default_is_another_id_and_the_old_value_the_old_one(one: int, other: int, rate: float) -> None:
    new, old = hash_of(WithANewDefault, width=one, rate=rate), hash_of(Old, width=other, rate=rate)
    assert (new == old) == (one == other)


def test_what_knobs_came_with_is_not_changed_in_silence() -> None:
    kept, now = json.loads(FILE.read_text(encoding="utf-8")), first_defaults()
    changed = {key: (kept[key], now[key]) for key in kept.keys() & now.keys() if kept[key] != now[key]}
    assert changed == {}, "give these knobs first_default=..., so that ids of studies tell old and new apart"
    assert len(kept.keys() & now.keys()) > 150
