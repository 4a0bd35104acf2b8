"""Workers with the libraries loaded once, and a place outside with canaries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchstone.adapt.isolate import PreloadedWorkers


@pytest.fixture(scope="session", autouse=True)
def jobs() -> Iterator[None]:
    """The worker finds a job by its dotted name; those of the tests lie in `native_jobs.py` here."""
    sys.path.append(str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreloadedWorkers]:
    """Isolated workers that are forked from one process, so that torch is imported once."""
    with PreloadedWorkers(tmp_path_factory.mktemp("workers")) as ready:
        yield ready


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no isolated model may touch or read, with a secret in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("canary-93f1")
    return folder
