"""Laws of the plan: ids follow from the configuration alone, what cannot be is dropped with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.study_texts import ABLATION, MATRIX, write

from torchstone._errors import ConfigError, UsageError
from torchstone.study.plan import Plan, base_of, plan_study, select
from torchstone.study.plan_info import dropped_sentence
from torchstone.study.study_file import read_study


def planned(folder: Path, text: str) -> Plan:
    return plan_study(read_study(write(folder, text)))


def test_a_step_is_its_parent_and_its_difference(tmp_path: Path) -> None:
    text = ABLATION + '[[step]]\nid = "2"\nparent = "1"\nset = { "model.dropout" = 0.1 }\n'
    plan = planned(tmp_path, text)
    assert [each.settings.model.d_ff for each in plan.arms] == [None, 64, 64]
    assert [each.settings.model.dropout for each in plan.arms] == [None, None, 0.1]
    assert plan.arms[0].settings.train.batch_size == 8, "the base is obeyed"


def test_a_child_can_give_a_knob_its_default_back(tmp_path: Path) -> None:
    text = (
        ABLATION
        + '[[step]]\nid = "2"\nparent = "1"\nset = { "model.d_ff" = "@default", "model.dropout" = 0.1 }\n'
    )
    assert planned(tmp_path, text).arms[2].settings.model.d_ff is None


def test_ids_are_a_function_of_the_resolved_configuration_alone(tmp_path: Path) -> None:
    first = planned(tmp_path, ABLATION)
    assert len({each.id for each in first.cells}) == len(first.cells) == 4
    renamed = ABLATION.replace('name = "mine"', 'name = "other"').replace('id = "1"', 'id = "one"')
    assert [each.id for each in planned(tmp_path, renamed).cells] == [each.id for each in first.cells]
    named = ABLATION.replace("[[step]]", '[study.set]\n"tracking.run_name" = "x"\n[[step]]', 1)
    assert [each.id for each in planned(tmp_path, named).cells] == [each.id for each in first.cells]
    other = planned(tmp_path, ABLATION.replace("64", "65"))
    assert [a.id == b.id for a, b in zip(first.cells, other.cells, strict=True)] == [True, True, False, False]


def test_the_seed_of_a_cell_is_in_its_configuration(tmp_path: Path) -> None:
    assert [each.settings.train.random_seed for each in planned(tmp_path, ABLATION).cells] == [1, 2, 1, 2]


def test_mistakes_in_knobs_are_told_for_all_steps(tmp_path: Path) -> None:
    text = ABLATION.replace("d_ff", "d_fff") + '[[step]]\nid = "2"\nset = { "train.batch_size" = -1 }\n'
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, text)
    assert "study.toml:13" in str(caught.value)
    assert "did you mean 'model.d_ff'" in str(caught.value)
    assert "study.toml:17" in str(caught.value)


def test_rules_drop_with_their_reason(tmp_path: Path) -> None:
    plan = planned(tmp_path, MATRIX)
    assert [each.id for each in plan.arms] == ["narrow_0.0", "narrow_0.1", "wide_0.0"]
    assert dropped_sentence(plan) == "dropped 1 of 4: wide ones are not dropped (1)"
    assert [each.parent for each in plan.arms] == [None, "narrow_0.0", "narrow_0.0"]


def test_an_axis_without_effect_leaves_one_arm(tmp_path: Path) -> None:
    text = """\
[study]
name = "schedules"
kind = "matrix"
[[axis]]
name = "schedule"
key = "optim.schedule"
values = ["constant", "wsd"]
[[axis]]
name = "decay"
key = "optim.decay_ratio"
values = [0.1, 0.3]
claims = { "0.3" = { update = "differs" } }
"""
    plan = planned(tmp_path, text)
    assert [each.id for each in plan.arms] == ["constant", "wsd_0.1", "wsd_0.3"]
    assert "decay has no effect here" in plan.dropped[0].reason
    assert plan.arm("wsd_0.3").parent == "wsd_0.1"
    assert plan.arm("wsd_0.3").claims == {"update": "differs"}
    assert plan.arm("wsd_0.1").parent == "constant"


RATES = """\
[study]
name = "rates"
kind = "matrix"
[[axis]]
name = "pruning"
values.none = { prune.method = "none" }
values.magnitude = { prune.method = "magnitude" }
[[axis]]
name = "sparsity"
key = "prune.sparsity"
values = [0.5, 0.95]
claims = { "0.95" = { update = "differs" } }
[[adjust]]
arms = { sparsity = [0.5, 0.95] }
set = { optim.learning_rate = 0.01 }
reason = "the best of three for what is pruned"
[[adjust]]
arms = { pruning = "magnitude", sparsity = 0.95 }
set = { optim.learning_rate = 0.03 }
reason = "the best of three"
"""


def test_arms_are_adjusted_and_the_last_word_holds(tmp_path: Path) -> None:
    plan = planned(tmp_path, RATES)
    rates = {each.id: each.settings.optim.learning_rate for each in plan.arms}
    assert rates == {"none": 5e-5, "magnitude_0.5": 0.01, "magnitude_0.95": 0.03}, "nothing is sparse in none"
    assert plan.arm("magnitude_0.95").set == {"prune.sparsity": 0.95, "optim.learning_rate": 0.03}
    with pytest.raises(ConfigError, match="varies"):
        base_of(plan.study, overrides=[("optim.learning_rate", "0.1")])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'pruning = "magnitude", s',
            'pruning = "none", s',
            r"no arm is left that this adjusts[\s\S]*toml:17",
        ),
        ('pruning = "magnitude", s', 'pruned = "none", s', "did you mean 'pruning'"),
        ("set = { optim.learning_rate = 0.03 }", "", "sets something"),
        ("optim.learning_rate = 0.03", "optim.learning_rat = 0.03", r"toml:19[\s\S]*'optim.learning_rate'"),
    ],
)
def test_an_adjustment_that_does_nothing_is_an_error(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        planned(tmp_path, RATES.replace(old, new))


def test_a_rule_that_drops_all_is_an_error(tmp_path: Path) -> None:
    text = MATRIX.replace('drop = { width = "wide", drop = [0.1] }', 'drop = { width = ["wide", "narrow"] }')
    with pytest.raises(ConfigError, match="nothing is left"):
        planned(tmp_path, text)


def test_selection(tmp_path: Path) -> None:
    plan = planned(tmp_path, MATRIX)
    assert [each.arm for each in select(plan, only=["width=narrow"]).cells] == ["narrow_0.0", "narrow_0.1"]
    assert [each.arm for each in select(plan, only=["wide*"]).cells] == ["wide_0.0"]
    assert [each.arm for each in select(plan, only=[plan.cells[1].id[:6]]).cells] == ["narrow_0.1"]
    both = planned(tmp_path, ABLATION)
    assert [each.name for each in select(both, steps=["1"], seeds=[2]).cells] == ["mine/1/seed-2"]
    with pytest.raises(UsageError, match="no steps"):
        select(plan, steps=["1"])
    for wish in ({"only": ["nothing"]}, {"steps": ["9"]}, {"seeds": [5]}, {"only": ["width=huge"]}):
        with pytest.raises(UsageError):
            select(plan, **wish)  # type: ignore[arg-type]


def test_an_override_may_not_make_arms_equal(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, ABLATION))
    with pytest.raises(ConfigError, match="varies"):
        base_of(study, overrides=[("model.d_ff", "32")])
    with pytest.raises(ConfigError, match="varies"):
        base_of(study, environ={"CONFIG_MODEL_D_FF": "32"})
    assert base_of(study, overrides=[("train.max_steps", "3")]).train.max_steps == 3


def test_a_base_that_is_not_there_is_told_with_the_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.toml, base"):
        planned(tmp_path, ABLATION.replace("gpt-nano", "gpt-nanoo"))
