"""What a run keeps about its surroundings, and what it must never keep: secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import torchstone
from torchstone.tracking.environment import code_hash, snapshot
from torchstone.tracking.hardware import survey
from torchstone.tracking.scrub import REMOVED, scrub, scrub_arguments

# Split, so that no scanner takes these made-up keys for real ones.
SECRETS = [
    "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345",
    "sk-" + "proj-abcdefghijklmnopqrstuvwxyz",
    "ghp_" + "a" * 36,
    "github_" + "pat_" + "b" * 40,
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
]
NAMED = [
    'wandb_api_key = "{}"',
    "export MY_TOKEN={}",
    '"aws_secret_access_key": "{}",',
    "password: {}",
    "--hub-token={}",
    "https://user:{}@example.org/x",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_known_keys_are_removed_wherever_they_stand(secret):
    assert scrub(f"call({secret!s}) # kept") == f"call({REMOVED}) # kept"


@pytest.mark.parametrize("line", NAMED)
def test_values_beside_telling_names_are_removed(line):
    found = scrub(line.format("Zq8x0123456789abcdef0123456789abcdef0123"))
    assert "Zq8x" not in found
    assert found == line.format(REMOVED)


@pytest.mark.parametrize(
    "text",
    [
        "tokens_per_s: 12345",
        "self.tokenizer = build_tokenizer(config)",
        "pad_token_id: int = 0",
        "the loss went down",
        "a/b/c.py",
        "",
    ],
)
def test_ordinary_text_stays(text):
    assert scrub(text) == text


def test_a_secret_given_as_the_next_word_is_removed():
    assert scrub_arguments(["train", "--hub-token", "abc", "--seed", "0"]) == [
        "train",
        "--hub-token",
        REMOVED,
        "--seed",
        "0",
    ]


def git(folder, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_snapshot_knows_commit_and_changes_but_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_SERVICE", "value-of-an-environment-variable")
    monkeypatch.setattr(sys, "argv", ["torchstone", "train", "--token", SECRETS[0]])
    git(tmp_path, "init")
    (tmp_path / "model.py").write_text("lr = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = snapshot(tmp_path)
    assert (clean["git"]["dirty"], clean["git"]["diff"], len(clean["git"]["commit"])) == (False, "", 40)

    (tmp_path / "model.py").write_text(f"lr = 2\nkey = {SECRETS[1]!r}\n")
    (tmp_path / "new.py").write_text("")
    dirty = snapshot(tmp_path)
    assert dirty["git"]["dirty"]
    assert "+lr = 2" in dirty["git"]["diff"]
    assert dirty["git"]["untracked"] == ["new.py"]
    assert dirty["git"]["diff_sha256"] != clean["git"]["diff_sha256"]
    text = json.dumps(dirty)
    assert not any(each in text for each in (*SECRETS, "value-of-an-environment-variable"))
    assert dirty["python"].startswith("3.")
    assert dirty["cpu"]["cores"] >= 1


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert snapshot(tmp_path)["git"] is None


def test_the_survey_tells_status_and_pip_lines(tmp_path):
    findings = survey(tmp_path)
    topics = {each.topic for each in findings}
    assert {"python", "torch", "device", "cpu", "memory", "disk", "isolation", "extra [plots]"} <= topics
    assert {each.status for each in findings} <= {"ok", "note", "problem"}
    assert all(each.advice for each in findings if each.status != "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_a_note_with_its_pip_line(monkeypatch):
    from torchstone.tracking import hardware

    monkeypatch.setattr(hardware, "available", lambda module: module != "matplotlib")
    plots = next(each for each in survey() if each.topic == "extra [plots]")
    assert (plots.status, plots.advice) == ("note", "pip install 'torchstone[plots]'")


def test_own_code_is_known_by_its_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.txt").write_text("no code")
    before = code_hash(tmp_path)
    (tmp_path / "b.txt").write_text("still none")
    assert code_hash(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2")
    changed = code_hash(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({before, changed, code_hash(tmp_path)}) == 3
    assert snapshot()["torchstone_sources"] == code_hash(Path(torchstone.__file__).parent)


def test_code_that_git_does_not_track_is_found_among_many_other_files(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "m"], cwd=tmp_path, check=True)
    for number in range(120):
        (tmp_path / f"a{number}.txt").write_text("")
    assert snapshot(tmp_path)["git"]["untracked_code"] == []
    (tmp_path / "z.py").write_text("")
    git = snapshot(tmp_path)["git"]
    assert git["untracked_code"] == ["z.py"]
    assert len(git["untracked"]) == 100
