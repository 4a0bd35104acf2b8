"""Layers one by one: what each may say, how its sources read, what has no effect, what cannot be changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from config.config_trees import HOUSE, STRANGE, Odd
from pydantic import ValidationError

from torchstone._errors import ConfigError
from torchstone.config.knobs import knobs_of
from torchstone.config.resolve import Resolved, differences, resolve
from torchstone.config.schema import Section, knob
from torchstone.optim.config import OptimConfig
from torchstone.train.config import LoopConfig


def test_each_layer_names_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "defconfigs").mkdir()
    (tmp_path / "defconfigs" / "mine").write_text(
        "# mine\n\nCONFIG_TRAIN_EPOCHS=2\nCONFIG_TRAIN_KEEP_LAST=5\n"
    )
    (tmp_path / ".config").write_text("CONFIG_TRAIN_KEEP_LAST=6\nCONFIG_TRAIN_BATCH_SIZE=7\n")
    made = resolve(
        HOUSE,
        defconfig="mine",
        file=Path(".config"),
        environ={"CONFIG_TRAIN_RANDOM_SEED": "8", "CONFIG_SHELL": "/bin/sh", "CONFIG_SITE": "x", "HOME": "/"},
        overrides=[("optim.beta1", "0.5"), ("optim.beta1", "0.6")],
    )
    assert made.train.epochs == 2 and made["train"].batch_size == 7
    assert {key: source for key, source in made.sources.items() if source != "default"} == {
        "train.epochs": "defconfigs/mine:3",
        "train.keep_last": ".config:1",
        "train.batch_size": ".config:2",
        "train.random_seed": "environment CONFIG_TRAIN_RANDOM_SEED",
        "optim.beta1": "--set",
    }
    assert made.optim.beta1 == 0.6


def test_toml_names_its_lines_and_json_its_file(tmp_path: Path) -> None:
    toml = tmp_path / "a.toml"
    toml.write_text(
        '[train]  # loop\nepochs = 2\nmax_steps = "none"\n\n'
        "[optim]\nlearning_rate = 1\n[check]\ntiers = [1, 2]\n"
    )
    made = resolve(HOUSE, file=toml)
    assert made.sources["optim.learning_rate"] == f"{toml}:6"
    assert made.sources["train.epochs"] == f"{toml}:2"
    assert made.optim.learning_rate == 1.0 and isinstance(made.optim.learning_rate, float)
    assert made.check.tiers == (1, 2) and made.train.max_steps is None
    as_json = tmp_path / "a.json"
    as_json.write_text(json.dumps({"train": {"epochs": 2, "max_steps": None}, "optim.learning_rate": 1}))
    assert resolve(HOUSE, file=as_json).sources["train.epochs"] == str(as_json)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[train]\nbatch_size = "8"\n', "whole number"),
        ("[train]\nbatch_size = 8.0\n", "whole number"),
        ("[train]\nbatch_size = true\n", "whole number"),
        ("[train]\ndeterministic = 1\n", "y or n"),
        ("[train]\nbatch_size = [8]\n", "whole number"),
        ("[optim]\nlearning_rate = nan\n", "a number > 0"),
        ("[optim]\nlearning_rate = inf\n", "a number > 0"),
        ('[tracking]\nnotes = "two\\nlines"\n', "one line"),
        ("[train\n", "not TOML"),
    ],
)
def test_a_value_of_the_wrong_type_is_not_bent(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        resolve(HOUSE, file=tmp_path / "a.toml")


def test_a_wish_without_effect_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    """Also if it says the default; only a full .config, which lists everything, may."""
    key, symbol = "optim.final_learning_rate_ratio", "CONFIG_OPTIM_FINAL_LEARNING_RATE_RATIO"
    constant = [("optim.schedule", "constant")]
    for text in ("0.1", "0.3"):
        with pytest.raises(ConfigError, match="has no effect here") as caught:
            resolve(HOUSE, overrides=[*constant, (key, text)])
        assert "optim.schedule=cosine" in caught.value.next
        assert "optim.schedule is constant (--set)" in caught.value.why
        with pytest.raises(ConfigError, match="has no effect here"):
            resolve(HOUSE, overrides=constant, environ={symbol: text})
    (tmp_path / ".config").write_text(f'{symbol}="0.1"\n')
    assert resolve(HOUSE, file=tmp_path / ".config", overrides=constant).optim.schedule == "constant"
    (tmp_path / ".config").write_text(f'{symbol}="0.3"\n')
    with pytest.raises(ConfigError, match="has no effect here"):
        resolve(HOUSE, file=tmp_path / ".config", overrides=constant)
    back = [*constant, (key, "@default")]
    assert resolve(HOUSE, file=tmp_path / ".config", overrides=back).sources[key] == "default"


def test_a_condition_behind_a_condition_counts() -> None:
    with pytest.raises(ConfigError, match="no effect"):
        resolve(STRANGE, overrides=[("odd.on", "n"), ("even.far", "y1"), ("even.width", "16")])
    chain = [("odd.off", "y"), ("even.width", "16"), ("even.far", "y1"), ("even.near", "z")]
    assert resolve(STRANGE, overrides=chain).even.near == "z"
    with pytest.raises(ConfigError, match=r"even\.near"):
        resolve(STRANGE, overrides=[chain[0], chain[1], chain[3]])


def test_a_condition_met_only_by_a_value_without_effect_is_not_met() -> None:
    assert resolve(STRANGE, overrides=[("odd.off", "y"), ("even.behind", "z")]).even.behind == "z"
    with pytest.raises(ConfigError, match="no effect") as caught:
        resolve(STRANGE, overrides=[("even.behind", "z")])
    assert "odd.off=y" in caught.value.why


def test_minus_zero_is_zero() -> None:
    minus, zero = (resolve(HOUSE, overrides=[("optim.warmup_ratio", text)]) for text in ("-0.0", "0.0"))
    assert minus.hash == zero.hash


def test_text_forms_that_people_write() -> None:
    made = resolve(
        HOUSE,
        overrides=[
            ("optim.learning_rate", "1e-3"),
            ("train.deterministic", "True"),
            ("train.max_steps", "None"),
            ("data.max_bytes", "4_000_000"),
            ("check.tiers", "1, 2,3"),
            ("check.only", ""),
        ],
    )
    assert made.optim.learning_rate == 1e-3 and made.train.deterministic is True
    assert made.train.max_steps is None and made.data.max_bytes == 4_000_000
    assert made.check.tiers == (1, 2, 3) and made.check.only == ()


def test_resolved_does_not_change() -> None:
    made = resolve(HOUSE)
    with pytest.raises(AttributeError):
        made.train = LoopConfig()
    with pytest.raises(ValidationError):
        made.train.epochs = 3
    made.values().clear()
    assert made.values()
    with pytest.raises(AttributeError, match="trian"):
        made.trian
    with pytest.raises(KeyError, match="trian"):
        made["trian"]


def test_with_values_checks_like_any_layer_and_leaves_the_first_alone() -> None:
    made = resolve(HOUSE)
    more = made.with_values({"train.epochs": 3, "optim.schedule": "constant"}, source="step 5")
    assert (made.train.epochs, more.train.epochs) == (10, 3)
    assert more.sources["train.epochs"] == "step 5"
    assert [each.key for each in differences(made, more)] == ["optim.schedule", "train.epochs"]
    with pytest.raises(ConfigError, match=r"train\.epochs") as caught:
        made.with_values({"train.epochs": "3", "train.epocs": 4})
    assert "2 mistakes" in str(caught.value)
    with pytest.raises(ConfigError, match="no effect"):
        more.with_values({"optim.final_learning_rate_ratio": 0.5})


def test_a_change_that_orphans_an_earlier_wish_is_refused() -> None:
    made = resolve(HOUSE, overrides=[("optim.final_learning_rate_ratio", "0.5")])
    with pytest.raises(ConfigError, match="no effect"):
        made.with_values({"optim.schedule": "constant"})


def test_sections_made_in_python_keep_what_was_given() -> None:
    made = Resolved.of_sections(
        {"train": LoopConfig(epochs=3), "optim": OptimConfig()}, source="TrainingConfig"
    )
    assert made.sources["train.epochs"] == "TrainingConfig"
    assert made.sources["train.batch_size"] == "default"
    assert (
        made.plain
        == resolve({"train": LoopConfig, "optim": OptimConfig}, overrides=[("train.epochs", "3")]).plain
    )
    with pytest.raises(ConfigError, match="no effect"):
        Resolved.of_sections({"optim": OptimConfig(schedule="constant", final_learning_rate_ratio=0.5)})


def test_select_keeps_the_part_of_one_job() -> None:
    part = resolve(HOUSE, overrides=[("check.seed", "3")]).select(["train", "optim"])
    assert part == resolve(HOUSE, overrides=[("check.seed", "4")]).select(["train", "optim"])
    assert list(part.sections) == ["train", "optim"]


def test_a_runs_config_json_gives_the_run_again(tmp_path: Path) -> None:
    made = resolve(HOUSE, overrides=[("train.epochs", "3"), ("optim.schedule", "constant")])
    (tmp_path / "config.json").write_text(json.dumps(made.to_json()))
    again = resolve(HOUSE, file=tmp_path / "config.json")
    assert again.hash == made.hash
    assert again.sources["train.epochs"] == str(tmp_path / "config.json")
    assert again.sources["train.batch_size"] == "default"


def test_a_section_refuses_an_unknown_choice_in_python_too() -> None:
    with pytest.raises(ValidationError, match="constant"):
        OptimConfig(schedule="constnat")
    with pytest.raises(ValidationError):
        Odd(real=float("inf"))
    with pytest.raises(ValidationError):
        Odd(numbers=(float("nan"),))


def test_a_rule_over_several_fields_names_who_set_them() -> None:
    from pydantic import model_validator

    class Block(Section):
        width: int = knob(8, help="Width.", ge=1)
        heads: int = knob(2, help="Heads.", ge=1)

        @model_validator(mode="after")
        def _divides(self) -> Block:
            if self.width % self.heads:
                raise ValueError(f"heads {self.heads} does not divide width {self.width}")
            return self

    with pytest.raises(ConfigError, match="does not divide") as caught:
        resolve({"block": Block}, overrides=[("block.heads", "3")])
    assert caught.value.where == "block.heads (--set)"


@pytest.mark.parametrize(
    "depends_on", ["gone.key=1", "loop.a=1", "loop.b>1"], ids=["absent", "circle", "malformed"]
)
def test_our_own_mistakes_in_a_description_are_loud(depends_on: str) -> None:
    class Loop(Section):
        a: int = knob(1, help="A.", depends_on=depends_on)
        b: int = knob(1, help="B.")

    with pytest.raises(ValueError, match="depends"):
        knobs_of({"loop": Loop})


def test_two_knobs_cannot_share_a_symbol() -> None:
    class Twins(Section):
        schedule: str = knob("cosine", help="A.", choices=("cosine",))
        schedule_cosine: bool = knob(False, help="B.")

    with pytest.raises(ValueError, match="cannot share"):
        knobs_of({"twins": Twins})


def test_an_unknown_defconfig_lists_the_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="quikstart") as caught:
        resolve(HOUSE, defconfig="quikstart")
    assert "'quickstart'" in caught.value.why
    assert "gpt-nano" in caught.value.next
