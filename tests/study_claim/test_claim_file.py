"""A claim file is read strictly: every mistake with its line, and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.study_texts import ABLATION, write
from study_claim.recordings import Bench, pair

from torchstone._errors import ConfigError, UsageError
from torchstone.study.cells import named
from torchstone.study.claim.arms import resolve_arms
from torchstone.study.claim.claim_file import read_claim
from torchstone.study.claim.terms import Selection, Size, parse_effect, parse_selection
from torchstone.study.plan import plan_study
from torchstone.study.study_file import read_study
from torchstone.tracking.marks import add_tags, remove_tags
from torchstone.tracking.store import Store

CONTRACT = """[claim]                                  # claim.toml
title = "bitter7 beats movement at 50 %"; metric = "val/perplexity"
direction = "lower"; effect = "relative 5 %"
[arms]
baseline = "runs:tag=movement-50"; candidate = "runs:tag=bitter7-50"
""".replace("; ", "\n")


def written(folder: Path, text: str) -> Path:
    path = folder / "claim.toml"
    path.write_text(text)
    return path


def test_the_claim_of_the_contract(tmp_path: Path) -> None:
    claim = read_claim(written(tmp_path, CONTRACT))
    assert claim.title == "bitter7 beats movement at 50 %"
    assert (claim.metric, claim.direction, claim.size) == ("val/perplexity", "lower", Size("relative", 5.0))
    assert [arm.name for arm in claim.arms] == ["baseline", "candidate"]
    assert claim.arms[1].selections == (Selection("runs", "", (("tag", "bitter7-50"),)),)
    assert (claim.budget, claim.at, claim.confidence) == ("tokens", "end", 0.95)


def test_the_baseline_is_first_wherever_it_stands(bench: Bench) -> None:
    pair(bench)
    arms = 'candidate = "runs:tag=candidate"\nbaseline = "runs:tag=baseline"'
    found = bench.judged(arms=arms)
    assert [arm.name for arm in found.claim.arms] == ["baseline", "candidate"]
    assert found.verdict == "SUPPORTED"


@pytest.mark.parametrize(
    ("line", "where", "told"),
    [
        ('titel = "x"', 5, "did you mean 'title'?"),
        ('direction = "down"', 3, "'down' is not one of lower, higher"),
        ('effect = "5 %"', 4, "is no size"),
        ('effect = "relative 0.05"', 4, "is no size"),
        ('effect = "relative 120 %"', 4, "is no size"),
        ("varies = ['*']", 5, "names no setting"),
        ("varies = 'optim.name'", 5, "is no list of texts"),
        ("ignores = { '*' = 'all of it' }", 5, "names no setting"),
        ("ignores = { seed = 1 }", 5, "seed = 1 is no text"),
        ('budget = "money"', 5, "is not one of tokens, time"),
        ("confidence = 0.5", 5, "is not in [0.95, 1)"),
        ("confidence = true", 5, "is not in [0.95, 1)"),
    ],
)
def test_a_mistake_in_the_claim_is_told_with_its_line(
    tmp_path: Path, line: str, where: int, told: str
) -> None:
    lines = ["[claim]", 'title = "t"', 'direction = "lower"', 'effect = "any"', 'metric = "val/loss"']
    key = line.partition(" = ")[0]
    same = [place for place, each in enumerate(lines) if each.startswith(f"{key} =")]
    if same:
        lines[same[0]] = line
    else:
        lines.insert(4, line)
    path = written(tmp_path, "\n".join([*lines, "[arms]", 'baseline = "a"', 'candidate = "b"', ""]))
    with pytest.raises(ConfigError) as refused:
        read_claim(path)
    assert told in str(refused.value)
    assert f"{path}:{where}" in str(refused.value)


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ('baselin = "a"\ncandidate = "b"', "did you mean 'baselin'?"),
        ('baseline = "a"', "a claim compares arms"),
        ('baseline = "runs:movement"\ncandidate = "b"', "does not say which runs"),
        ('baseline = "cells:ratio"\ncandidate = "b"', "does not say which arm of which study"),
        ('baseline = ["a", 3]\ncandidate = "b"', "3 names no runs"),
        ('baseline = []\ncandidate = "b"', "the arm has no runs"),
        ('baseline = { value = 3, sede = 1 }\ncandidate = "b"', "did you mean 'seed'?"),
        ('baseline = { value = "low" }\ncandidate = "b"', "value = 'low' is not a number"),
        ('baseline = { steps = 3.5 }\ncandidate = "b"', "steps = 3.5 is not a whole number"),
        ('baseline = { seed = true }\ncandidate = "b"', "seed = True is not a whole number"),
        ('baseline = { clean = 1 }\ncandidate = "b"', "clean = 1 is not true or false"),
        ('baseline = { invalid = "no" }\ncandidate = "b"', "there is no key 'invalid' here"),
        ('baseline = { from = "a", runs = [{}] }\ncandidate = "b"', "both are given"),
        ('baseline = { effective_batch = [{ val = 1 }] }\ncandidate = "b"', "did you mean 'value'?"),
        ('baseline = { runs = 3 }\ncandidate = "b"', "runs is no list of tables"),
    ],
)
def test_a_mistake_in_an_arm_is_told(bench: Bench, arms: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_claim(bench.claim(arms=arms))
    assert told in str(refused.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_claim(
            written(tmp_path, '[claim]\nmetrik = "a"\n[arm]\nbaseline = "a"\n[wandb]\nseed = "seed"\n')
        )
    told = str(refused.value)
    for part in ("metric is missing", "did you mean 'metric'?", "did you mean 'arms'?", "no table [arms]"):
        assert part in told
    assert "is no place in an export" in told


def test_what_is_no_toml_and_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is not TOML"):
        read_claim(written(tmp_path, "[claim\n"))
    with pytest.raises(UsageError, match="there is no claim file"):
        read_claim(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("relative 5 %", Size("relative", 5.0)),
        ("relative 15.6%", Size("relative", 15.6)),
        ("absolute 0.02", Size("absolute", 0.02)),
        ("any", Size("absolute", 0.0)),
        ("relative -5 %", None),
        ("absolute 5 %", None),
        ("relative 1e %", None),
        ("", None),
    ],
)
def test_effects(text: str, size: Size | None) -> None:
    assert parse_effect(text) == size
    if size is not None:
        assert parse_effect(str(size)) == size


def test_selections() -> None:
    assert parse_selection("runs:tag=a,optim.name=adamw").wanted == (("tag", "a"), ("optim.name", "adamw"))
    assert parse_selection("wandb:C:/x.json").place == "C:/x.json"
    assert parse_selection("wandb:x.json:tag=a") == Selection("wandb", "x.json", (("tag", "a"),))
    assert parse_selection("20260131-1200").origin == "run"
    assert str(parse_selection("cells:ratio/5")) == "runs:tag=study=ratio,tag=arm=5"
    for text in ("runs:tag=a", "wandb:x.json:tag=a,group=b", "wandb:x.json", "20260131"):
        assert str(parse_selection(text)) == text


def test_arms_are_found_by_tag_name_id_and_setting(bench: Bench) -> None:
    pair(bench)
    with Store.open(bench.store) as store:
        add_tags(store, "candidate-2", ["late"])
        add_tags(store, "candidate-0", ["study=rates", "arm=quick"])
        add_tags(store, "candidate-1", ["study=other", "arm=quick"])
        remove_tags(store, "candidate-2", ["candidate"])

    def ids(text: str) -> list[str]:
        claim = read_claim(bench.claim(arms=f'baseline = "baseline-0"\ncandidate = {text}'))
        return [run.run_id for run in resolve_arms(claim, bench.store)[1].runs]

    assert ids('"runs:tag=candidate"') == ["candidate-0", "candidate-1"]
    assert ids('"runs:tag=late"') == ["candidate-2"]
    assert ids('"cells:rates/quick"') == ["candidate-0"]
    assert ids('["candidate-2", "runs:tag=candidate", "candidate-0"]') == [
        "candidate-2",
        "candidate-0",
        "candidate-1",
    ]
    assert ids('"runs:optim.learning_rate=0.0003,train.random_seed=2"') == ["candidate-1"]
    assert ids('"runs:name=candidate-1"') == ["candidate-1"]


def test_cells_of_a_study_are_found_by_the_tags_that_a_study_gives_them(tmp_path: Path) -> None:
    plan = plan_study(read_study(write(tmp_path, ABLATION)))
    for cell in plan.cells:
        tags = named(cell).tracking.tags
        wanted = parse_selection(f"cells:{cell.study}/{cell.arm}").wanted
        assert [key for key, _ in wanted] == ["tag", "tag"]
        assert {value for _, value in wanted} <= set(tags)
    others = parse_selection(f"cells:{plan.cells[0].study}/{plan.cells[-1].arm}").wanted
    assert not {value for _, value in others} <= set(named(plan.cells[0]).tracking.tags)


def test_an_arm_without_runs_is_told_with_the_tags_there_are(bench: Bench) -> None:
    pair(bench)
    path = bench.claim(arms='baseline = "runs:tag=baseline"\ncandidate = "runs:tag=candidat"')
    with pytest.raises(UsageError) as refused:
        resolve_arms(read_claim(path), bench.store)
    assert "did you mean 'candidate'?" in str(refused.value)
    assert f"{path}:10" in str(refused.value)
    for arms in ('baseline = "runs:color=red"\ncandidate = "b"', 'baseline = "nothing"\ncandidate = "b"'):
        with pytest.raises(UsageError):
            resolve_arms(read_claim(bench.claim(arms=arms)), bench.store)
