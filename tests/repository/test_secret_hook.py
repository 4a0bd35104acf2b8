"""The pre-commit hook refuses secrets that are in the index, and lets look-alikes pass.

The examples are put together at run time, so that this file can itself be committed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / ".githooks" / "pre-commit"

A = "a1B2c3D4e5" * 10

HITS = {
    "wandb quoted": 'WANDB_API_KEY = "' + A[:40] + '"',
    "wandb shell": "export WANDB_API_KEY=" + A[:40],
    "wandb json": '{"wandb_api_key": "' + A[:40] + '"}',
    "wandb login": "wandb login " + "0123456789abcdef0123456789abcdef01234567",
    "hugging face": "token = 'hf_" + A[:34] + "'",
    "hugging face short": "HF_TOKEN=hf_" + A[:30],
    "openai classic": "OPENAI_API_KEY=sk-" + A[:48],
    "openai project": "key: sk-proj-" + A[:20] + "-" + A[:30] + "_x",
    "github classic": "ghp_" + A[:36],
    "github app": "url = https://x:ghs_" + A[:36] + "@host",
    "github fine-grained": "github_pat_" + A[:22] + "_" + A[:50],
    "aws id": "aws_access_key_id = AKIA" + "ABCDEFGHIJKLMNOP",
    "aws shell": "export AWS_SECRET_ACCESS_KEY=" + A[:40],
    "aws ini": "aws_secret_access_key = " + A[:40],
    "aws json": '"aws_secret_access_key": "' + A[:40] + '"',
    "aws json api": '"SecretAccessKey" : "' + A[:40] + '"',
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}

MISSES = {
    "variable names": "WANDB_API_KEY = os.environ['WANDB_API_KEY']",
    "placeholder": 'WANDB_API_KEY="<your key>"',
    "hf function": "hf_hub_download(repo_id)",
    "hf identifier": "self_hf_transformers_from_pretrained_model_name",
    "task list": "task-proj-" + A[:30],
    "mask": "mask-" + A[:40],
    "sha": "sha256: " + "0123456789abcdef" * 4,
    "git commit": "commit 0123456789abcdef0123456789abcdef01234567",
    "github words": "ghp_ is the prefix of a GitHub token",
    "aws name": "aws_secret_access_key: ${AWS_SECRET}",
    "public key": "-----BEGIN PUBLIC KEY-----",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def stage(repository: Path, name: str, text: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    subprocess.run(["git", "add", "--", name], cwd=repository, check=True)


def run_hook(repository: Path) -> subprocess.CompletedProcess[str]:
    sh = shutil.which("dash") or "sh"
    return subprocess.run([sh, str(HOOK)], cwd=repository, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", HITS.values(), ids=HITS.keys())
def test_a_secret_in_the_index_is_refused_and_not_repeated(repository: Path, line: str) -> None:
    stage(repository, "notes/settings file.md", "harmless\n" + line)
    done = run_hook(repository)
    assert done.returncode == 1
    assert "notes/settings file.md:2" in done.stderr
    assert A[:20] not in done.stderr


def test_look_alikes_pass(repository: Path) -> None:
    for number, line in enumerate(MISSES.values()):
        stage(repository, f"file{number}.txt", line)
    done = run_hook(repository)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_index_counts_not_the_working_tree(repository: Path) -> None:
    stage(repository, "a.py", HITS["hugging face"])
    (repository / "a.py").write_text("clean\n")
    assert run_hook(repository).returncode == 1
    stage(repository, "a.py", "clean")
    (repository / "a.py").write_text(HITS["hugging face"])
    assert run_hook(repository).returncode == 0


def test_an_empty_commit_and_odd_names_pass(repository: Path) -> None:
    assert run_hook(repository).returncode == 0
    stage(repository, "*.md", "clean")
    stage(repository, "ünï cødé.txt", "clean")
    assert run_hook(repository).returncode == 0
