"""Laws over random legal configurations: written is read, the last layer wins, equal values are equal."""

from __future__ import annotations

import json
import pickle
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from config.config_trees import TREES, another, configurations, consistent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchstone.config.kconfig import Tree
from torchstone.config.knobs import key_of, knobs_of, symbol_of
from torchstone.config.resolve import Resolved, Value, differences, resolve
from torchstone.config.values import in_effect, parse, write

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
tree = cache(lambda name: Tree(TREES[name]))
both = pytest.mark.parametrize("name", TREES)


def resolved(name: str, values: dict[str, Any], source: str = "test") -> Resolved:
    return Resolved.of_values(TREES[name], {key: Value(value, source) for key, value in values.items()})


@both
def test_symbols_and_keys_are_one_to_one(name: str) -> None:
    knobs = knobs_of(TREES[name])
    assert [key_of(symbol_of(key)) for key in knobs] == list(knobs)
    assert len({symbol_of(key) for key in knobs}) == len(knobs)


def test_the_symbol_of_a_key_is_what_makefiles_say() -> None:
    assert symbol_of("train.batch_size") == "CONFIG_TRAIN_BATCH_SIZE"
    assert key_of("CONFIG_TRAIN_BATCH_SIZE") == "train.batch_size"


@both
@few
@given(data=st.data())
def test_text_of_a_value_reads_as_the_value(name: str, data: st.DataObject) -> None:
    knobs = knobs_of(TREES[name])
    for key, value in data.draw(configurations(TREES[name])).items():
        assert parse(knobs[key], write(knobs[key], value)) == value


@both
def test_a_change_of_every_knob_at_once_round_trips(name: str, tmp_path: Path) -> None:
    every = {key: another(knob) for key, knob in knobs_of(TREES[name]).items()}
    values = consistent(every, TREES[name])
    (tmp_path / "mine").write_text(tree(name).minimal_text(values), encoding="utf-8")
    assert resolve(TREES[name], defconfig=tmp_path / "mine").plain == values


@both
@few
@given(data=st.data())
def test_dotconfig_and_defconfig_round_trip_is_the_identity(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    values = data.draw(configurations(TREES[name]))
    for text in (tree(name).text(values), tree(name).minimal_text(values)):
        path = tmp_path / ".config"
        path.write_text(text, encoding="utf-8")
        assert tree(name).read(path, ".config", honoured=True).mistakes == []
        assert resolve(TREES[name], file=path).plain == values
        assert tree(name).minimal_text(resolve(TREES[name], defconfig=path).plain) == tree(name).minimal_text(
            values
        )


@both
@few
@given(data=st.data())
def test_a_defconfig_holds_only_differences(name: str, data: st.DataObject) -> None:
    values = data.draw(configurations(TREES[name]))
    knobs = knobs_of(TREES[name])
    changed = [key for key, value in values.items() if value != knobs[key].default]
    lines = [line for line in tree(name).minimal_text(values).splitlines() if "CONFIG_" in line]
    assert all(any(symbol_of(key) in line for key in changed) for line in lines)
    assert len(changed) <= len(lines) or not changed


@both
@few
@given(data=st.data())
def test_resolved_survives_json_and_pickle(name: str, data: st.DataObject) -> None:
    made = resolved(name, data.draw(configurations(TREES[name])))
    text = json.dumps(made.to_json())
    assert Resolved.from_json(TREES[name], text) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert Resolved.from_json(TREES[name], text).sources == made.sources


@both
@few
@given(data=st.data())
def test_hash_is_of_the_values_alone(name: str, data: st.DataObject) -> None:
    values = data.draw(configurations(TREES[name]))
    one = resolved(name, values, "here")
    assert one.hash == resolved(name, dict(reversed(values.items())), "there").hash
    knobs = knobs_of(TREES[name])
    other = data.draw(configurations(TREES[name]))
    two = resolved(name, other)
    changed = [each.key for each in differences(one, two) if each.changes_result]
    assert changed == [key for key in knobs if values[key] != other[key] and knobs[key].changes_result]
    assert (one.hash == two.hash) == (not changed)


@both
def test_each_single_change_changes_the_hash_unless_it_changes_no_result(name: str) -> None:
    base = {key: knob.default for key, knob in knobs_of(TREES[name]).items()}
    for key, knob in knobs_of(TREES[name]).items():
        other = another(knob)
        same = other == knob.default or not knob.changes_result
        assert (resolved(name, base).hash == resolved(name, base | {key: other}).hash) == same, key


@both
@few
@given(data=st.data())
def test_kconfig_hides_exactly_what_has_no_effect(name: str, data: st.DataObject) -> None:
    values = data.draw(configurations(TREES[name]))
    shown = set(re.findall(r"(CONFIG_\w+)(?:=| is not set)", tree(name).text(values)))
    knobs = knobs_of(TREES[name])
    assert {key for key in knobs if symbol_of(key) in shown} == {
        key for key in knobs if in_effect(key, knobs, values)
    }


@both
@few
@given(data=st.data())
def test_the_last_layer_wins_and_is_named(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Each layer says a part of one legal configuration; the rest of the layers below say something else."""
    knobs = knobs_of(TREES[name])
    final = data.draw(configurations(TREES[name]))
    free = [key for key, knob in knobs.items() if not knob.conditions]
    below = data.draw(configurations(TREES[name]))
    (tmp_path / "mine").write_text(tree(name).minimal_text(below), encoding="utf-8")
    toml = tmp_path / "mine.json"
    levels = {key: data.draw(st.integers(0, 2)) for key in free}
    nested: dict[str, Any] = {}
    for key in free:
        nested[key] = final[key] if levels[key] == 0 else below[key]
    toml.write_text(json.dumps(nested), encoding="utf-8")
    environ = {
        symbol_of(key): write(knobs[key], (final if levels[key] == 1 else below)[key])
        for key in free
        if levels[key] >= 1
    }
    overrides: list[tuple[str, str | None]] = [
        (key, write(knobs[key], final[key])) for key in free if levels[key] == 2
    ]
    # Knobs with conditions may lose their ground when the layers mix; they go back to their defaults on top.
    overrides += [(key, None) for key in knobs if key not in free]
    got = resolve(
        TREES[name], defconfig=tmp_path / "mine", file=toml, environ=environ, overrides=overrides
    ).values()
    for key in free:
        source = (str(toml), f"environment {symbol_of(key)}", "--set")[levels[key]]
        assert got[key] == Value(final[key], source)
    assert all(got[key].source == "default" for key in knobs if key not in free)
