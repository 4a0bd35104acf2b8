"""Laws of the file: what is wrong is told with its line and what was meant; the rest is read as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.study_texts import ABLATION, MATRIX, write

from torchstone._errors import ConfigError, UsageError
from torchstone.config.toml_lines import read_toml
from torchstone.study.prove.claims import at_another_size
from torchstone.study.study_file import find_study, read_study


def test_an_ablation_is_read_as_it_stands(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, ABLATION))
    assert (study.name, study.kind, study.seeds, study.metric) == ("mine", "ablation", (1, 2), "val/loss")
    zero, one = study.steps
    assert (zero.parent, one.parent, one.set) == (None, "0", {"model.d_ff": 64})
    assert one.places["model.d_ff"].endswith("study.toml:13")
    assert one.where.endswith("study.toml:10")


def test_a_matrix_is_read_as_it_stands(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, MATRIX))
    assert [[value.name for value in axis.values] for axis in study.axes] == [
        ["narrow", "wide"],
        ["0.0", "0.1"],
    ]
    assert study.axes[1].values[1].set == {"model.dropout": 0.1}
    assert study.rules[0].matches({"width": "wide", "drop": "0.1"})
    assert not study.rules[0].matches({"width": "wide", "drop": "0.0"})


@pytest.mark.parametrize(
    ("right", "wrong", "line", "said"),
    [
        ('kind = "ablation"', 'kind = "ablatoin"', 3, "did you mean 'ablation'?"),
        ('parent = "0"', 'parent = "O"', 12, "not above"),
        ('parent = "0"', 'parnet = "0"', 12, "did you mean 'parent'?"),
        ('id = "1"', 'id = "0"', 11, "there twice"),
        ('id = "1"', "id = 1", 11, 'id = "1"'),
        ('id = "1"', 'id = "a/b"', 11, "cannot name a folder"),
        ("seeds = [1, 2]", "seeds = [1, 1]", 5, "different whole numbers"),
        ("seeds = [1, 2]", "seed = [1, 2]", 5, "did you mean 'seeds'?"),
        ('parameters = "<0"', 'parameters = "less"', 14, "+123"),
        ('parameters = "<0"', "parameters = -5", 14, "+123"),
        ('parameters = "<0"', 'paramters = "<0"', 14, "did you mean 'parameters'"),
        ('id = "0"', 'id = "0"\nclaims = { flops = "+0" }', 9, "there is none"),
        ('"model.d_ff" = 64', '"train.random_seed" = 64', 13, "seed of a cell"),
        ('[[step]]\nid = "0"', '[[axis]]\nname = "0"', 7, "a matrix or an ablation, not both"),
        ("[study]", "[sutdy]", None, "there is no [study] table"),
        ("seeds = [1, 2]", "seeds = [1, 2", 7, "this is not TOML"),
    ],
)
def test_each_mistake_has_its_line(
    tmp_path: Path, right: str, wrong: str, line: int | None, said: str
) -> None:
    assert right in ABLATION
    with pytest.raises(ConfigError) as caught:
        read_study(write(tmp_path, ABLATION.replace(right, wrong, 1)))
    assert said in str(caught.value)
    assert line is None or f"study.toml:{line}" in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong", "line", "said"),
    [
        ('width = "wide"', 'width = "wied"', 17, "did you mean 'wide'?"),
        ('width = "wide"', 'widht = "wide"', 17, "did you mean 'width'?"),
        ('reason = "wide ones are not dropped"\n', "", 16, "reason is missing"),
        ('key = "model.dropout"\n', "", 13, "needs the key"),
        ("values = [0.0, 0.1]", "values = [0.0, 0.0]", 14, "twice"),
        ("values = [0.0, 0.1]", "values = []", 14, "needs values"),
        ('name = "drop"', 'name = "width"', 12, "there twice"),
    ],
)
def test_each_mistake_of_a_matrix_has_its_line(
    tmp_path: Path, right: str, wrong: str, line: int, said: str
) -> None:
    assert right in MATRIX
    with pytest.raises(ConfigError) as caught:
        read_study(write(tmp_path, MATRIX.replace(right, wrong, 1)))
    assert said in str(caught.value)
    assert f"study.toml:{line}" in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = ABLATION.replace("seeds", "sedes").replace('parent = "0"', 'parent = "7"')
    with pytest.raises(ConfigError) as caught:
        read_study(write(tmp_path, text))
    assert ":5:" in str(caught.value)
    assert ":12:" in str(caught.value)


def test_lines_see_through_strings_arrays_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'a = """\n[b]\nc = 1\n"""\n# d = 2\ne = [\n  "]", # [f]\n  2,\n]\n[g]\n"h.i" = { j = 1 }\nk.l = 2\n'
    )
    _, lines = read_toml(path)
    places = {("a",): 1, ("e",): 6, ("g",): 10, ("g", "h.i"): 11, ("g", "k", "l"): 12, ("nothing",): 1}
    assert {key: lines[key] for key in places} == places


def test_an_unknown_name_suggests() -> None:
    with pytest.raises(UsageError, match="did you mean 'widths'"):
        find_study("width")
    with pytest.raises(UsageError, match="no study file"):
        find_study("nowhere/x.toml")


EXTENDING = """\
[study]
name = "small"
kind = "ablation"
extends = "study.toml"
base = "defconfigs/gpt-tiny"

[[step]]
id = "1"
set = { "model.dropout" = 0.1 }
claims = { output = "differs" }
"""


def extending(folder: Path, text: str = EXTENDING) -> Path:
    write(folder, ABLATION.replace('"<0"', '"-5"'))
    path = folder / "small.toml"
    path.write_text(text)
    return path


def test_an_extending_study_has_the_steps_at_its_own_base(tmp_path: Path) -> None:
    study = read_study(extending(tmp_path))
    assert (study.name, study.base, study.seeds) == ("small", "defconfigs/gpt-tiny", (1,))
    zero, one = study.steps
    assert zero == read_study(tmp_path / "study.toml").steps[0]
    assert (one.parent, one.set) == ("0", {"model.d_ff": 64, "model.dropout": 0.1})
    assert one.claims == {"parameters": "<0", "output": "differs"}, "amounts hold at one size alone"
    assert one.places["model.d_ff"].endswith("study.toml:13")
    assert one.places["model.dropout"].endswith("small.toml:9")


@pytest.mark.parametrize(
    ("right", "wrong", "line", "said"),
    [
        ('id = "1"', 'id = "2"', 8, "mine has no step '2'"),
        ('id = "1"', 'id = "1"\nparent = "0"', 9, "there is no key 'parent' here"),
        ('extends = "study.toml"', 'extends = "small.toml"', 4, "leads back to small.toml"),
        ('extends = "study.toml"', 'extends = "gpt-pruning"', 4, "a matrix has no steps"),
    ],
)
def test_each_mistake_of_an_extending_study_has_its_line(
    tmp_path: Path, right: str, wrong: str, line: int, said: str
) -> None:
    assert right in EXTENDING
    with pytest.raises(ConfigError) as caught:
        read_study(extending(tmp_path, EXTENDING.replace(right, wrong, 1)))
    assert said in str(caught.value)
    assert f"small.toml:{line}" in str(caught.value)


def test_amounts_become_directions_at_another_size() -> None:
    claims = {
        "parameters": "+3",
        "flops": "=7",
        "kv_bytes_per_token": "x0.5",
        "updates": "+3",
        "output": "equal",
    }
    left = {"parameters": ">0", "kv_bytes_per_token": "x0.5", "updates": "+3", "output": "equal"}
    assert at_another_size(claims) == left
    assert at_another_size({"parameters": "-3", "flops": "+0"}) == {"parameters": "<0", "flops": "+0"}
