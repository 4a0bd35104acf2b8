"""`torchstone check` as people and machines meet it: verdicts, exit codes, files, clear refusals."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from zoo.documented import schema
from zoo.gist_api import ID, gist_api

ROOT = Path(__file__).parents[2]
Typed = Callable[..., Any]

LEAKING = """
import torch
from torch import nn

class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(16, 16)
    def forward(self, x):
        return self.proj(x + x.mean(dim=1, keepdim=True))

class Leaky(nn.Module):
    def __init__(self, vocab_size=50):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.position = nn.Embedding(32, 16)
        self.mixer = Mixer()
        self.head = nn.Linear(16, vocab_size)
    def forward(self, input_ids):
        x = self.embedding(input_ids) + self.position(torch.arange(input_ids.shape[1]))
        return self.head(x + self.mixer(x))
"""


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    (tmp_path / "leaky").mkdir()
    (tmp_path / "leaky" / "model.py").write_text(LEAKING)
    (tmp_path / "leaky" / "config.json").write_text('{"vocab_size": 50, "max_seq_len": 32}')
    return tmp_path / "leaky"


def test_a_leak_is_convicted_with_its_module(torchstone: Typed, leaky: Path) -> None:
    answer = torchstone(
        "check", leaky, "--task", "causal-lm", "--only", "causal-leak,vocab-range", "--json",
        "--html", "page.html", "--junit", "junit.xml",
    )  # fmt: skip
    assert answer.code == 1
    jsonschema.validate(answer.object, schema("torchstone.check/1"))
    assert answer.object["verdict"] == "fail"
    leak = answer.object["checks"][0]
    assert (leak["id"], leak["status"], leak["module"]) == ("causal-leak", "fail", "mixer")
    assert leak["measured"] > leak["limit"]
    assert "mixer" in Path("page.html").read_text()
    assert ElementTree.parse("junit.xml").getroot().find(".//failure") is not None


def test_the_table_says_the_same_in_words(torchstone: Typed, leaky: Path) -> None:
    answer = torchstone("check", f"{leaky}/model.py:Leaky", "--task", "causal-lm", "--only", "causal-leak")
    assert answer.code == 1
    assert re.search(r"^FAIL\s+causal-leak.*mixer", answer.out, re.MULTILINE)


def test_a_sound_model_holds(torchstone: Typed) -> None:
    answer = torchstone("check", "zoo:gpt-nano", "--only", "causal-leak,eval-determinism", "--json")
    assert (answer.code, answer.object["verdict"]) == (0, "pass")


def test_what_a_model_prints_does_not_break_the_object(torchstone: Typed, leaky: Path) -> None:
    source = LEAKING.replace("        x = self.emb", "        print('here'); x = self.emb")
    (leaky / "model.py").write_text(source)
    answer = torchstone("check", leaky, "--only", "eval-determinism", "--json")
    assert answer.object["verdict"] == "pass"
    assert "here" in answer.err


def test_the_model_of_a_configuration_is_checked(torchstone: Typed) -> None:
    answer = torchstone("check", "--defconfig", "gpt-nano", "--only", "eval-determinism", "--json")
    assert (answer.code, answer.object["model"]["class"]) == (0, "GPT")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "zoo:gpt-nanno"], 2, "gpt-nano"),
        (["check", "zoo:gpt-nano", "--only", "causal-leek"], 2, "causal-leak"),
        (["check", "zoo:gpt-nano", "--tier", "9"], 2, "--tier"),
        (["check", "no/such/folder"], 2, "no/such/folder"),
        (["check", "zoo:gpt-nano", "--task", "causal"], 2, "causal-lm"),
        (["check", "--config", "absent.toml"], 2, "absent.toml"),
        (["check"], 2, ""),
        (["chekc"], 2, "chekc"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_is_refused_with_advice(
    torchstone: Typed, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    answer = torchstone(*arguments)
    assert answer.code == code
    assert words in answer.out + answer.err
    assert "Traceback" not in answer.err
    assert not list(tmp_path.iterdir()), "a refused command leaves the disk as it was"


@pytest.mark.parametrize("arguments", [["check", "zoo:nothing"], ["check", "--nonsense"], ["nonsense"]])
def test_under_json_a_failure_is_one_object(torchstone: Typed, arguments: list[str]) -> None:
    answer = torchstone(*arguments, "--json")
    assert answer.code == 2
    jsonschema.validate(answer.object, schema("torchstone.error/1"))


def test_a_dry_run_loads_nothing_and_writes_nothing(torchstone: Typed, tmp_path: Path) -> None:
    answer = torchstone("check", "gist:" + "0" * 20, "--dry-run", "--json")
    assert answer.code == 0
    assert [each["status"] for each in answer.object["checks"]] == ["skip"] * len(answer.object["checks"])
    assert not list(tmp_path.iterdir())


def test_knobs_steer_the_job_and_flags_come_last(torchstone: Typed, tmp_path: Path) -> None:
    knobs = 'CONFIG_CHECK_ONLY="batch-leak"\nCONFIG_CHECK_SEED=3\nCONFIG_MODEL_NUM_LAYERS="1"\n'
    (tmp_path / ".config").write_text(knobs)
    small = ["--set", "model.d_model=16", "--set", "check.budget_s=5"]
    report = torchstone("check", "--config", ".config", *small, "--json").object
    assert [each["id"] for each in report["checks"]] == ["batch-leak"] and report["seed"] == 3
    assert report["model"]["parameters"] < 50_000  # zoo:gpt-nano with the sizes of the configuration
    said = torchstone("check", "--config", ".config", "--only", "vocab-range", "--seed", 4, "--json", *small)
    assert [each["id"] for each in said.object["checks"]] == ["vocab-range"] and said.object["seed"] == 4


@pytest.mark.parametrize("wish", ["check.tiers=0", "check.tiers=6", "check.budget_s=0", "check.onyl=x"])
def test_a_wrong_knob_is_refused_before_anything_is_loaded(torchstone: Typed, wish: str) -> None:
    answer = torchstone("check", "zoo:gpt-nano", "--set", wish)
    assert answer.code == 2 and "check." in answer.err


def test_the_environment_asks_for_a_dry_run(torchstone: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRY_RUN", "1")
    checks = torchstone("check", "zoo:gpt-nano", "--json").object["checks"]
    assert {each["status"] for each in checks} == {"skip"}


def test_the_report_of_a_check_is_kept_in_the_store(torchstone: Typed) -> None:
    torchstone("check", "zoo:gpt-nano", "--only", "eval-determinism", "--json")
    runs = torchstone("runs", "list", "--kind", "check", "--json").object["runs"]
    assert len(runs) == 1
    shown = torchstone("runs", "show", runs[0]["run_id"], "--json").object
    assert shown["checks"]["checks"][0]["id"] == "eval-determinism"


HOSTILE = """
import os
from torch import nn

class Net(nn.Linear):
    os.system("touch {canary}")
"""


def test_a_hostile_gist_is_told_stopped_and_leaves_no_trace(
    torchstone: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "cache"))
    with gist_api() as api:
        monkeypatch.setenv("TORCHSTONE_GIST_API", api.address)
        api.put("model.py", HOSTILE.format(canary=canary))
        api.put("config.json", "{}")
        checked = torchstone("check", f"gist:{ID}")
        trained = torchstone("train", f"gist:{ID}")
    assert checked.code == trained.code == 3
    assert "process: os.system (line 6)" in checked.err
    assert "was stopped" in checked.err
    assert "--trust" in trained.err
    assert not canary.exists()


def test_without_a_network_a_gist_is_one_clear_refusal(
    torchstone: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHSTONE_GIST_API", "http://127.0.0.1:9")
    assert torchstone("check", f"gist:{ID}").code == 75
