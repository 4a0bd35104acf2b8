"""What a run ran on: versions, devices, the commit and what was changed since; kept as `environment.json`.

Environment variables are never kept, and secrets are taken out of the command line and of the diff. Torch is
described but not imported: who has not loaded it gets its version only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from torchstone._files import sha256, sha256_bytes
from torchstone._version import __version__
from torchstone.tracking.scrub import scrub, scrub_arguments

DIFF_LIMIT = 100_000
CODE = (".py", ".pyi", ".so", ".c", ".cpp", ".cu", ".h")
"""Ends of names of files without which a commit does not hold the code that ran."""
PACKAGES = (
    "numpy",
    "safetensors",
    "tokenizers",
    "transformers",
    "sqlalchemy",
    "pydantic",
    "matplotlib",
    "triton",
)


def snapshot(folder: Path | None = None) -> dict[str, Any]:
    """The record of this process and machine; `folder` is where the user's code lies (default: here)."""
    return {
        "schema": "torchstone.environment/1",
        "torchstone": __version__,
        "torchstone_sources": own_sources(),
        "command": scrub_arguments(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := version_of(name))},
        "torch": _torch(),
        "cpu": {"model": cpu_model(), "cores": usable_cores(), "threads": os.cpu_count()},
        "memory_bytes": psutil.virtual_memory().total,
        "git": _git(folder or Path.cwd()),
    }


@cache
def own_sources() -> str:
    """Hash of torchstone's own code: who works on it changes it without changing its version."""
    return code_hash(Path(__file__).parents[1])


def code_hash(folder: Path) -> str:
    """SHA-256 over the Python files below a folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {sha256(path)}\n".encode())
    return digest.hexdigest()


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {"version": version_of("torch"), "loaded": False}
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            devices.append({"name": about.name, "memory_bytes": about.total_memory})
    return {
        "version": str(torch.__version__),
        "loaded": True,
        "cuda": torch.version.cuda,
        "rocm": getattr(torch.version, "hip", None),
        "threads": torch.get_num_threads(),
        "devices": devices,
    }


def _git(folder: Path) -> dict[str, Any] | None:
    commit = ask_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = ask_git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv") or b""
    others = ask_git(folder, "ls-files", "--others", "--exclude-standard") or b""
    untracked = others.decode(errors="replace").splitlines()
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(diff),
        # The hash is of the whole diff as git gave it; the text is for people, shortened and scrubbed.
        "diff_sha256": sha256_bytes(diff) if diff else None,
        "diff": scrub(diff.decode("utf-8", errors="replace"))[:DIFF_LIMIT],
        "diff_cut": len(diff) > DIFF_LIMIT,
        "untracked": untracked[:100],
        "untracked_code": [name for name in untracked if name.endswith(CODE)][:100],
    }


def ask_git(folder: Path, *arguments: str) -> bytes | None:
    """What git answers about the repository around `folder`; None where it fails or is not there."""
    # A repository may name a program to run on every status (fsmonitor); a snapshot must not start it.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
