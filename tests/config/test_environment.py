"""Short names in the environment (`MAX_ITERS`, `TIME`, `EPOCHS`, `DRY_RUN`); values as Python sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from config.config_trees import HOUSE, STRANGE

from torchstone._errors import ConfigError
from torchstone.config.knobs import knobs_of
from torchstone.config.resolve import resolve
from torchstone.config.schema import Section, knob

SHORT = {
    "MAX_ITERS": ("train.max_steps", "7", 7),
    "TIME": ("train.max_time_s", "90", 90.0),
    "EPOCHS": ("train.epochs", "3", 3),
    "DRY_RUN": ("train.dry_run", "1", True),
}


def test_these_are_the_short_names() -> None:
    found = {each.environment: each.key for each in knobs_of(HOUSE).values() if each.environment}
    assert found == {name: key for name, (key, _, _) in SHORT.items()}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_name_sets_its_knob_and_is_named_as_the_source(name: str, tmp_path: Path) -> None:
    key, text, value = SHORT[name]
    (tmp_path / ".config").write_text("CONFIG_TRAIN_EPOCHS=9\n")
    made = resolve(HOUSE, file=tmp_path / ".config", environ={name: text})
    assert (made.plain[key], made.sources[key]) == (value, f"environment {name}")
    assert resolve(HOUSE, environ={name: ""}).plain == resolve(HOUSE).plain
    assert resolve(HOUSE, environ={name: text}, overrides=[(key, "@default")]).sources[key] == "default"


@pytest.mark.parametrize(
    ("name", "text"), [("MAX_ITERS", "many"), ("TIME", "-3"), ("EPOCHS", "0"), ("DRY_RUN", "perhaps")]
)
def test_a_wrong_value_is_refused_with_its_name(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(HOUSE, environ={name: text})
    assert caught.value.where == f"environment {name}"


def test_the_format_of_gnu_time_is_no_duration() -> None:
    assert resolve(HOUSE, environ={"TIME": "%E real,%U user"}).train.max_time_s is None


def test_two_names_may_agree_but_not_contradict() -> None:
    long = "CONFIG_TRAIN_MAX_STEPS"
    assert resolve(HOUSE, environ={long: "7", "MAX_ITERS": "7"}).train.max_steps == 7
    with pytest.raises(ConfigError, match="two values for train") as caught:
        resolve(HOUSE, environ={long: "8", "MAX_ITERS": "7"})
    assert caught.value.why == f"environment {long} says 8"


def test_a_short_name_belongs_to_one_knob() -> None:
    class Twice(Section):
        """Two knobs, one name."""

        one: int = knob(1, help="One.", environment="N")
        two: int = knob(2, help="Two.", environment="N")

    with pytest.raises(ValueError, match="same short environment name"):
        knobs_of({"twice": Twice})


def test_values_have_their_types_and_symbols_are_attributes() -> None:
    made = resolve(HOUSE, overrides=[("train.deterministic", "true"), ("optim.learning_rate", "6e-4")])
    assert made.TRAIN_DETERMINISTIC is True and made.TRAIN_DETERMINISTIC in ("y", True)
    assert made.CONFIG_OPTIM_LEARNING_RATE == made.OPTIM_LEARNING_RATE == 0.0006
    assert isinstance(made.OPTIM_LEARNING_RATE, float)
    assert getattr(made, "NO_SUCH_SYMBOL", None) is None
    with pytest.raises(AttributeError, match="did you mean 'CONFIG_TRAIN_BATCH_SIZE'"):
        made.TRAIN_BATCH_SIZ


@pytest.mark.parametrize(("written", "value"), [('"y"', True), ('"n"', False), ("true", True)])
def test_y_and_true_are_one_in_a_file(written: str, value: bool, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"[train]\ndeterministic = {written}\n")
    assert resolve(HOUSE, file=tmp_path / "a.toml").train.deterministic is value
    assert resolve(HOUSE).with_values({"train.deterministic": "y"}).train.deterministic is True


def test_hash_ignores_what_changes_no_result() -> None:
    base = resolve(STRANGE)
    assert base.with_values({"odd.helper": 4}).hash == base.hash
    assert base.with_values({"odd.remark": "x"}).hash == base.hash
    assert base.with_values({"odd.free": 4}).hash != base.hash
