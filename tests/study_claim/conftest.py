from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from study_claim.recordings import Bench, git, repository


@pytest.fixture(scope="session")
def with_commits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    repository(folder)
    return folder


@pytest.fixture
def bench(with_commits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    folder = tmp_path / "bench"
    shutil.copytree(with_commits, folder)
    monkeypatch.chdir(folder)
    return Bench(folder, git(folder, "rev-parse", "HEAD"))
