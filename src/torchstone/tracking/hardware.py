"""What this machine offers to torchstone: the findings that `torchstone doctor` prints.

Each finding says what is there, whether that is well, and the line that changes it. Nothing is changed here.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from torchstone._optional import available
from torchstone.tracking.environment import cpu_model, usable_cores, version_of

GIB = 2**30
# (extra, modules that it brings, what they are for)
EXTRAS = (
    ("tokenize", ("tokenizers",), "byte-level BPE tokenizers"),
    ("hf", ("transformers", "huggingface_hub"), "models and data of the Hugging Face hub"),
    ("plots", ("matplotlib",), "dashboards as pictures"),
    ("stats", ("scipy",), "intervals and power of a comparison (torchstone publish)"),
    ("frames", ("pandas",), "reports as data frames"),
    ("postgres", ("psycopg",), "one store for many machines (TORCHSTONE_STORE=postgresql://...)"),
)


@dataclass(frozen=True)
class Finding:
    """One line of `torchstone doctor`."""

    topic: str
    finding: str
    status: Literal["ok", "note", "problem"]
    """`note`: works, something optional is absent; `problem`: something will fail."""
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def survey(folder: Path | None = None) -> list[Finding]:
    """All findings; `folder` is where runs would be written (default: here)."""
    return [
        _python(),
        *_torch(),
        _cores(),
        _memory(),
        _disk(folder or Path.cwd()),
        *_isolation(),
        *_extras(),
        *_programs(),
    ]


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.platform(terse=True)}"
    return Finding("python", text, "ok")


def _torch() -> Iterator[Finding]:
    if version_of("torch") is None:
        yield Finding("torch", "not installed", "problem", "pip install torch")
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        yield Finding(
            "torch", f"cannot be loaded: {reason}", "problem", "pip install --force-reinstall torch"
        )
        return
    yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads", "ok")
    if torch.cuda.is_available():
        kind = "rocm" if getattr(torch.version, "hip", None) else "cuda"
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            text = f"{about.name}, {about.total_memory / GIB:.1f} GiB"
            yield Finding("device", f"{kind}:{index} {text}", "ok")
    elif torch.backends.mps.is_available():
        yield Finding("device", "mps (Apple)", "ok")
    else:
        yield Finding(
            "device", "cpu only", "note", "fine for checks and small models; GPUs speed up training"
        )


def _cores() -> Finding:
    cores, threads = usable_cores(), os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    return Finding("cpu", f"{cpu_model()}, {cores} usable cores{limit}", "ok")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < 2 * GIB:
        return Finding(
            "memory", text, "note", "models above 100 M parameters may not fit; close other programs"
        )
    return Finding("memory", text, "ok")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free for runs in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "disk", f"{folder} cannot be written", "problem", "give --run-dir a folder that can be"
        )
    if free < GIB:
        return Finding("disk", text, "problem", "free some space, or give --run-dir a folder on another disk")
    return Finding("disk", text, "ok")


def _isolation() -> Iterator[Finding]:
    """Presence only; what holds for a given run is stated by that run."""
    if sys.platform != "linux":
        yield Finding(
            "isolation", f"no user namespaces on {sys.platform}", "note", "untrusted models: use Linux"
        )
        return
    if shutil.which("bwrap"):
        yield Finding("isolation", "bubblewrap is installed", "ok")
    else:
        advice = "apt install bubblewrap: stronger walls around untrusted models"
        yield Finding("isolation", "bubblewrap is absent", "note", advice)
    if _user_namespaces():
        yield Finding("isolation", "user namespaces can be made", "ok")
    else:
        advice = "ask for kernel.unprivileged_userns_clone=1; without it untrusted models get weaker walls"
        yield Finding("isolation", "user namespaces are refused here", "note", advice)


def _user_namespaces() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    command = [unshare, "--user", "--map-root-user", "true"]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def _extras() -> Iterator[Finding]:
    for extra, modules, purpose in EXTRAS:
        missing = [name for name in modules if not available(name)]
        if missing:
            line = f"pip install 'torchstone[{extra}]'"
            yield Finding(f"extra [{extra}]", f"{', '.join(missing)} absent: no {purpose}", "note", line)
        else:
            found = ", ".join(f"{name} {version_of(name) or ''}".strip() for name in modules)
            yield Finding(f"extra [{extra}]", f"{found}: {purpose}", "ok")


def _programs() -> Iterator[Finding]:
    for names, purpose in (
        (("git",), "the commit of a run is recorded"),
        (("tmux",), "a training can outlive its terminal"),
        (("chromium", "chromium-browser", "google-chrome"), "the local pages can be tested in a browser"),
    ):
        found = next((path for name in names if (path := shutil.which(name))), None)
        if found:
            yield Finding(names[0], f"{found}: {purpose}", "ok")
        else:
            yield Finding(names[0], f"absent (with it, {purpose})", "note", f"apt install {names[0]}")
