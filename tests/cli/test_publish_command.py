"""`torchstone publish` on runs that were really trained, and its answers to wrong use."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from zoo.documented import schema

from torchstone.cli.main import run

TINY = "--set model.d_model=16 --set model.num_layers=1 --set model.num_heads=2 --set model.max_seq_len=32"
CLAIM = """[claim]
title = "a learning rate of 0.02 is better than 0.0001"
metric = "val/perplexity"
direction = "lower"
effect = "relative 2 %"
varies = ["optim.learning_rate"]
[arms]
baseline = "runs:tag=slow"
candidate = "runs:tag=quick"
"""
RATES = {"slow": "0.0001", "quick": "0.02"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "claims" / "published.toml"


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a text, and two arms of three seeds each that were trained from it."""
    folder = tmp_path_factory.mktemp("arms")
    (folder / "text.txt").write_text("a cat sat on a mat.\n" * 100)
    (folder / "claim.toml").write_text(CLAIM)
    (folder / ".gitignore").write_text("runs/\n")
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "text"]):
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    with contextlib.chdir(folder):
        for name in RATES:
            for seed in (1, 2, 3):
                train(name, f"{name}-{seed}", seed)
    return folder


@pytest.fixture
def trained(
    torchstone: Callable[..., Any], arms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """`torchstone` in a copy of it."""
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    shutil.copytree(arms, tmp_path, dirs_exist_ok=True)
    return torchstone


def train(arm: str, name: str, seed: int, *more: str) -> None:
    code = run([
        "train", "zoo:gpt-nano", "--data", "text.txt", "--set", "data.tokenizer=bytes", "-q", "--sample", "0",
        "--max-steps", "6", "--run-dir", f"runs/{name}", "--seed", str(seed), "--device", "cpu",
        *TINY.split(), "--set", "tracking.dashboard=n", "--set", f"tracking.tags={arm}",
        "--set", f"optim.learning_rate={RATES[arm]}", *more,
    ])  # fmt: skip
    assert code == 0


def test_from_training_to_a_page_that_demotes_itself(trained: Callable[..., Any], tmp_path: Path) -> None:
    answer = trained("publish", "claim.toml", "--json")
    found = answer.object
    assert found["confounders"] == []
    assert found["verdict"] in ("SUPPORTED", "SUPPORTED BUT LIMITED"), found["why"]
    assert answer.code == 0
    assert found["seeds"] == 3
    assert found["interval"][0] < found["effect"] < found["interval"][1]
    jsonschema.validate(found, schema("torchstone.publish/1"))
    facts = found["arms"][0]["runs"][0]["facts"]
    assert facts["effective_batch"] == 4
    assert facts["steps"] == facts["planned_steps"] == 6
    assert facts["clean"] is True
    assert len(facts["commit"]) == 40

    assert trained("publish", "--verify", "claim-page").code == 0
    answer = trained("runs", "invalidate", "runs/quick-2", "--why", "a wrong text")
    assert answer.code == 0
    assert "now REFUSED" in answer.out
    assert json.loads((tmp_path / "claim-page" / "page.json").read_text())["content"]["verdict"] == "REFUSED"
    answer = trained("publish", "--verify", "claim-page", "--json")
    assert answer.code == 1
    jsonschema.validate(answer.object, schema("torchstone.publish-verify/1"))
    answer = trained("publish", "claim.toml")
    assert answer.code == 1
    assert answer.out.startswith("REFUSED: a learning rate")
    assert "a wrong text" in answer.out


def test_what_differs_between_real_runs_is_refused_by_name(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    def names() -> set[str]:
        answer = trained("publish", "claim.toml", "--dry-run", "--json")
        assert answer.code == (1 if answer.object["confounders"] else 0)
        return {each["name"] for each in answer.object["confounders"]}

    def extra(case: str, *more: str) -> set[str]:
        """With a fourth seed of both arms, the candidate's trained otherwise."""
        train("slow", f"slow-{case}", 4)
        train("quick", f"quick-{case}", 4, *more)
        found = names()
        for arm in RATES:
            assert trained("runs", "tag", f"runs/{arm}-{case}", arm, "--remove").code == 0
        return found

    assert names() == set()
    assert extra("b", "--set", "train.gradient_accumulation_steps=2") == {"effective-batch", "tokens"}
    assert extra("c", "--set", "optim.schedule=linear") == {"configuration"}
    (tmp_path / "text.txt").write_text("a dog sat on a mat.\n" * 100)
    assert extra("d") == {"data", "evaluation", "cleanliness"}
    subprocess.run(["git", "checkout", "-q", "text.txt"], cwd=tmp_path, check=True)
    (tmp_path / "model.py").write_text("")
    assert extra("e") == {"cleanliness"}
    assert not (tmp_path / "claim-page").exists()


def test_the_published_comparison(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    answer = torchstone("publish", EXAMPLE, "--dry-run", "--json")
    assert answer.code == 1
    jsonschema.validate(answer.object, schema("torchstone.publish/1"))
    assert answer.object["effect"] is answer.object["interval"] is answer.object["needed_seeds"] is None
    assert {each["name"] for each in answer.object["confounders"]} == {
        "tokens", "effective-batch", "method", "seeds", "commit"
    }  # fmt: skip
    told = torchstone("publish", EXAMPLE, "--out", tmp_path / "page")
    assert (told.code, told.out.splitlines()[0][:8]) == (1, "REFUSED:")
    assert "steps: 5,000 in baseline; 2,500 in bitter8; 7,000 in bitter7" in told.out
    assert sorted(each.name for each in (tmp_path / "page").iterdir()) == [
        "page.html", "page.json", "page.md", "picture.png"
    ]  # fmt: skip


def test_wrong_use_is_told(torchstone: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[claim]\ntitle = 3\n")
    (tmp_path / "claim.toml").write_text(CLAIM)
    for code, *arguments in (
        (2, "absent.toml"),
        (2, "bad.toml"),
        (2, "claim.toml"),  # there is no store
        (2, "claim.toml", "--verify", "page"),
        (2, "--verify", "page"),
        (2, "--dry-run"),
    ):
        answer = torchstone("publish", *arguments, "--json")
        assert answer.code == code, answer.out
        jsonschema.validate(answer.object, schema("torchstone.error/1"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.toml", "claim.toml"]
