"""The bundle's programs in an environment that holds its own requirements.txt and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchstone.export.bundle import export
from torchstone.export.formats import chosen
from torchstone.export.source import Source


def told(python: Path, folder: Path, *arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"}
    done = subprocess.run(
        [str(python), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.campaign
def test_it_runs_where_only_its_requirements_are(source: Source, tmp_path: Path) -> None:
    bundle = export(source, tmp_path / "bundle", chosen("onnx")).path
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(bundle / "requirements.txt")]
    subprocess.run(install, check=True)
    assert "pass:" in told(python, bundle, "verify.py")
    answer = told(python, bundle, "inference.py", "--input", "naïve 你好", "--temperature", "0", "--json")
    assert len(json.loads(answer)["results"][0]["ids"]) > 0
    for absent in ("torch", "torchstone", "transformers"):
        probe = f"import importlib.util as u; assert u.find_spec({absent!r}) is None"
        told(python, bundle, "-c", probe)
