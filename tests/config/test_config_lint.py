"""Lint: each way a line of a .config can fail to do what it says, with file:line, the fix, and the repair."""

from __future__ import annotations

from pathlib import Path

import pytest
from config.config_trees import HOUSE

from torchstone._errors import ConfigError
from torchstone.config.kconfig import Tree
from torchstone.config.lint import fix, lint
from torchstone.config.resolve import resolve

TREE = Tree(HOUSE)

REPAIRED = [
    ("CONFIG_TRAIN_EPOCHS = 3", "blank around", "CONFIG_TRAIN_EPOCHS=3"),
    ("CONFIG_TRAIN_EPOCHS= 3", "blank around", "CONFIG_TRAIN_EPOCHS=3"),
    ("  CONFIG_TRAIN_EPOCHS=3", "does not begin", "CONFIG_TRAIN_EPOCHS=3"),
    ("CONFIG_TRAIN_EPOCHS=3  ", "trailing blank", "CONFIG_TRAIN_EPOCHS=3"),
    ("CONFIG_TRAIN_EPOCHS=3 # three", "comment behind", "# three\nCONFIG_TRAIN_EPOCHS=3"),
    ("CONFIG_TRAIN_EPOCHS=3\t# three", "comment behind", "# three\nCONFIG_TRAIN_EPOCHS=3"),
    ('CONFIG_MODEL_TARGET="a#b" # c', "comment behind", '# c\nCONFIG_MODEL_TARGET="a#b"'),
    ("CONFIG_TRAIN_DETERMINISTIC=y # yes", "comment behind", "# yes\nCONFIG_TRAIN_DETERMINISTIC=y"),
    ("CONFIG_TRAIN_DETERMINISTIC=yes", "y or n", "CONFIG_TRAIN_DETERMINISTIC=y"),
    ("CONFIG_TRAIN_DETERMINISTIC=True", "y or n", "CONFIG_TRAIN_DETERMINISTIC=y"),
    ('CONFIG_TRAIN_EPOCHS="3"', "must not be quoted", "CONFIG_TRAIN_EPOCHS=3"),
    ("CONFIG_OPTIM_LEARNING_RATE=6e-4", "needs double quotes", 'CONFIG_OPTIM_LEARNING_RATE="6e-4"'),
    ("CONFIG_TRAIN_MAX_STEPS=150", "needs double quotes", 'CONFIG_TRAIN_MAX_STEPS="150"'),
    ("CONFIG_MODEL_TARGET='a b'", "needs double quotes", 'CONFIG_MODEL_TARGET="a b"'),
    ("TRAIN_EPOCHS=3", "does not begin", "CONFIG_TRAIN_EPOCHS=3"),
    ("train.epochs = 3", "does not begin", "CONFIG_TRAIN_EPOCHS=3"),
    ("config_train_epochs=3", "does not begin", "CONFIG_TRAIN_EPOCHS=3"),
]

DECIDED_BY_A_PERSON = [
    ("CONFIG_TRAIN_EPOCS=3", "no symbol", "CONFIG_TRAIN_EPOCHS"),
    ("CONFIG_TRAIN_EPOCHS=0", ">= 1", "default: 10"),
    ("CONFIG_TRAIN_EPOCHS=three", "whole number", "default: 10"),
    ("CONFIG_TRAIN_EPOCHS=", "whole number", "default: 10"),
    ("CONFIG_TRAIN_DETERMINISTIC=maybe", "y or n", "default: n"),
    ('CONFIG_OPTIM_BETA1="1.5"', "< 1", "default: 0.9"),
    ('CONFIG_OPTIM_SCHEDULE="constnat"', "cosine, linear, constant", "constant"),
    ("CONFIG_OPTIM_SCHEDULE_CONSTANT=on", "y or n", ""),
    ('CONFIG_MODEL_TARGET="open', "not closed", ""),
    ('CONFIG_MODEL_TARGET="a" b', "something follows", ""),
    ("# CONFIG_TRAIN_EPOCHS is not set", "only a switch", ""),
    ("source lines", "neither", ""),
    ("CONFIG_OPTIM_SCHEDULE_COSINE=n", "nothing else is chosen", "CONFIG_OPTIM_SCHEDULE_CONSTANT=y"),
]


@pytest.mark.parametrize(("line", "why", "right"), REPAIRED)
def test_a_bent_line_is_an_error_and_fix_straightens_it(
    line: str, why: str, right: str, tmp_path: Path
) -> None:
    path = tmp_path / ".config"
    path.write_text(f"# first\n{line}\n# last\n")
    (only,) = lint(path, TREE, ".config")
    assert only.where == ".config:2"
    assert why in only.what
    assert only.next == f"write {right.splitlines()[-1]}"
    assert [each.line for each in fix(path, TREE)] == [2]
    assert path.read_text() == f"# first\n{right}\n# last\n"
    assert lint(path, TREE) == []
    assert fix(path, TREE) == []


@pytest.mark.parametrize(("line", "why", "way_out"), DECIDED_BY_A_PERSON)
def test_a_wrong_line_is_an_error_and_fix_leaves_it(
    line: str, why: str, way_out: str, tmp_path: Path
) -> None:
    path = tmp_path / ".config"
    text = f"# first\n{line}\n"
    path.write_text(text)
    (only,) = lint(path, TREE, ".config")
    assert only.where == ".config:2"
    assert why in f"{only.what} {only.why}"
    assert way_out in f"{only.why} {only.next}"
    assert fix(path, TREE) == []
    assert path.read_text() == text
    with pytest.raises(ConfigError, match=r"\.config:2"):
        resolve(HOUSE, file=path)


def test_an_assignment_that_a_dependency_overrides_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text(
        'CONFIG_OPTIM_SCHEDULE_CONSTANT=y\nCONFIG_OPTIM_FINAL_LEARNING_RATE_RATIO="0.25"\n', encoding="utf-8"
    )
    (only,) = lint(path, TREE, "mine")
    assert (only.where, only.repair) == ("mine:2", None)
    assert "has no effect here" in only.what
    assert "optim.schedule=cosine" in only.why
    with pytest.raises(ConfigError, match="no effect here"):
        resolve(HOUSE, file=path)


def test_a_line_set_twice_and_a_choice_said_in_two_ways_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("CONFIG_TRAIN_EPOCHS=2\nCONFIG_TRAIN_EPOCHS=3\n")
    (only,) = lint(path, TREE, "mine")
    assert only.where == "mine:2"
    assert "line 1" in only.what
    path.write_text("CONFIG_TRAIN_EPOCHS=2\nCONFIG_TRAIN_EPOCHS=2\n")
    (only,) = lint(path, TREE, "mine")
    assert only.where == "mine:2"
    path.write_text('CONFIG_OPTIM_SCHEDULE_CONSTANT=y\nCONFIG_OPTIM_SCHEDULE="cosine"\n')
    (only,) = lint(path, TREE, "mine")
    assert only.where == "mine:2"
    assert "'cosine' here and 'constant' in line 1" in only.what


@pytest.mark.parametrize("line", ["CONFIG_OPTIM_SCHEDULE_CONSTANT=y", 'CONFIG_OPTIM_SCHEDULE="constant"'])
def test_a_choice_can_be_said_by_its_switch_or_by_its_name(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text(f"{line}\n")
    assert lint(path, TREE) == []
    assert resolve(HOUSE, file=path).optim.schedule == "constant"


def test_comments_blank_lines_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"# a\r\n\r\n  # b\r\n#CONFIG_X=1\r\nCONFIG_TRAIN_EPOCHS=2\r\n")
    assert lint(path, TREE) == []
    assert resolve(HOUSE, file=path).train.epochs == 2


def test_all_mistakes_come_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("CONFIG_TRAIN_EPOCHS = 2\nCONFIG_NOPE=1\nCONFIG_TRAIN_KEEP_LAST=0\n")
    with pytest.raises(ConfigError) as caught:
        resolve(
            HOUSE,
            file=path,
            environ={"CONFIG_TRAIN_EPOCS": "2"},
            overrides=[("optim.lr", "1"), ("optim.beta1", "2")],
        )
    text = str(caught.value)
    for place in (
        f"{path}:1",
        f"{path}:2",
        f"{path}:3",
        "environment CONFIG_TRAIN_EPOCS",
        "--set: optim.beta1",
    ):
        assert place in text
    assert "6 mistakes" in text


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        resolve(HOUSE, file=path)
