"""The same bundle gives the same archive and comes back whole; hostile archives write nothing outside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from export.hostile_archives import TARS, ZIPS, entry, first, write_tar

from torchstone._errors import DataError, TorchstoneError, UsageError
from torchstone.export.archive import ArchiveRefused, pack, unpack

CORPUS = [(".tar.zst", name, make) for name, make in TARS.items()]
CORPUS += [(".zip", name, make) for name, make in ZIPS.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As much of a bundle as an archive cares for."""
    place = tmp_path / "bundle"
    (place / "extra").mkdir(parents=True)
    contents = {"model.onnx": os.urandom(100_000), "README.md": b"# a\n", "extra/empty": b""}
    for name, data in contents.items():
        (place / name).write_bytes(data)
    files = {name: {"bytes": len(data)} for name, data in contents.items()}
    (place / "bundle.json").write_text(json.dumps({"files": files}))
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [".tar.zst", ".zip"])
def test_an_archive_is_the_same_each_time_and_comes_back(folder: Path, tmp_path: Path, kind: str) -> None:
    first_one = pack(folder, tmp_path / f"one{kind}").read_bytes()
    for path in folder.rglob("*"):
        os.utime(path, (10**9, 10**9))
        path.chmod(0o700)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"not of the bundle")
    assert pack(folder, tmp_path / f"two{kind}").read_bytes() == first_one
    (folder / "__pycache__" / "x.pyc").unlink()
    assert contents(unpack(tmp_path / f"one{kind}", tmp_path / "back")) == contents(folder)


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 30


@pytest.mark.parametrize(("kind", "name", "make"), CORPUS, ids=[f"{name}{kind}" for kind, name, _ in CORPUS])
def test_a_hostile_archive_is_refused(tmp_path: Path, kind: str, name: str, make: Any) -> None:
    archive = tmp_path / "here" / f"bad{kind}"
    archive.parent.mkdir()
    make(archive)
    with pytest.raises((ArchiveRefused, DataError)) as told:
        unpack(archive, tmp_path / "here" / "into")
    assert isinstance(told.value, ArchiveRefused) or name in ("the manifest twice", "members over each other")
    assert {path.name for path in tmp_path.iterdir()} == {"here"}, "nothing beside"
    written = [path for path in (tmp_path / "here" / "into").rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in written)
    assert sum(path.stat().st_size for path in written) < 1 << 20


@pytest.mark.parametrize("kind", [".tar.zst", ".zip"])
def test_a_cut_archive_is_damaged(folder: Path, tmp_path: Path, kind: str) -> None:
    whole = pack(folder, tmp_path / f"whole{kind}").read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        (tmp_path / f"cut{kind}").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(TorchstoneError):
            unpack(tmp_path / f"cut{kind}", tmp_path / f"into{share}")


def test_what_is_no_bundle_and_what_is_missing_are_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar.zst", [entry("README.md", b"x")])
    with pytest.raises(DataError, match="is no bundle"):
        unpack(tmp_path / "a.tar.zst", tmp_path / "a")
    write_tar(tmp_path / "b.tar.zst", [first(a=1)])
    with pytest.raises(DataError, match="not whole"):
        unpack(tmp_path / "b.tar.zst", tmp_path / "b")
    with pytest.raises(UsageError, match="no name of an archive"):
        pack(tmp_path, tmp_path / "a.rar")
