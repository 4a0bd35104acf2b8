"""What must be true of a run after a fault, and at the end of all faults.

Reads what any reader could: the run folder, the manifests in it, the store. A run's facts are everything
that no clock has a part in; two runs are the same when their facts are.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import torch

from torchstone.tracking import spill
from torchstone.tracking.checkpoint import open_checkpoint
from torchstone.tracking.store import Store

CLOCKS = ("tokens_per_s", "seconds", "duration", "_s", "memory")
"""Endings of names whose values come from a clock or the machine."""


def facts(run_dir: Path) -> dict[str, Any]:
    """Everything that must be equal, by name; values are hashes or plain numbers."""
    found: dict[str, Any] = {}
    newest = max(visible(run_dir), key=lambda path: int(path.name.removeprefix("step-")))
    checkpoint = open_checkpoint(newest)
    found["step"] = checkpoint.step
    for name, tensor in checkpoint.tensors().items():
        found[f"weights/{name}"] = digest(tensor)
    flatten("state", checkpoint.state(), found)
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    for name in ("status", "steps", "tokens", "final", "epochs"):
        flatten(f"report/{name}", report[name], found)
    found["report/best"] = (report["best"]["step"], report["best"]["val/loss"])
    for pointer in ("latest", "best"):
        found[f"pointer/{pointer}"] = (run_dir / pointer).read_text(encoding="utf-8")
    with Store.open(run_dir.parent / "store.db", readonly=True) as store:
        (run,) = store.runs()
        found["store/status"] = run.status
        for row in store.metrics(run.run_id):
            name = f"row/{row.key}/{row.step}"
            assert name not in found, f"{name} is there twice"
            found[name] = "a clock's" if is_clock(row.key) else row.value
    return found


def is_clock(name: str) -> bool:
    return name.endswith(CLOCKS)


def digest(tensor: torch.Tensor) -> str:
    data = (
        tensor.detach().contiguous().view(torch.uint8)
        if tensor.dim()
        else tensor.detach().reshape(1).view(torch.uint8)
    )
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data.numpy().tobytes()).hexdigest()}"


def flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    """Nested containers as one level; floats by their bits, tensors by their bytes."""
    if isinstance(value, dict):
        for key, each in value.items():
            flatten(f"{name}/{key}", each, into)
    elif isinstance(value, list | tuple):
        into[f"{name}/length"] = len(value)
        for place, each in enumerate(value):
            flatten(f"{name}/{place}", each, into)
    elif is_clock(name):
        into[name] = "a clock's"
    elif isinstance(value, torch.Tensor):
        into[name] = digest(value)
    elif isinstance(value, float):
        into[name] = "nan" if math.isnan(value) else struct.pack("d", value).hex()
    else:
        into[name] = value


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is lost, what is too much, what has other bits; empty for the same run."""
    lost = [f"lost {name}" for name in expected.keys() - found.keys()]
    extra = [f"too much: {name}" for name in found.keys() - expected.keys()]
    other = [
        f"{name}: {found[name]!r} instead of {value!r}"
        for name, value in expected.items()
        if name in found and found[name] != value
    ]
    return sorted(lost) + sorted(extra) + sorted(other)


# --- at any instant -------------------------------------------------------------------------------


def visible(run_dir: Path) -> list[Path]:
    """Checkpoints that a reader can see."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def damage(checkpoint: Path) -> str:
    """What a reader would find wrong with it, by its manifest alone; empty if nothing."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        for name, file in manifest["files"].items():
            data = (checkpoint / name).read_bytes()
            if len(data) != file["bytes"] or hashlib.sha256(data).hexdigest() != file["sha256"]:
                return f"{checkpoint.name}/{name} is not what the manifest says"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{checkpoint.name}: {type(error).__name__}: {error}"
    return ""


def broken_promises(run_dir: Path) -> list[str]:
    """What must hold of a run folder whenever its process has ended, however that was."""
    found = [problem for each in visible(run_dir) if (problem := damage(each))]
    quarantine = run_dir / "checkpoints" / "quarantine"
    if quarantine.is_dir():
        found += [f"{path.name} had to be set aside" for path in quarantine.iterdir()]
    for pointer in ("latest", "best"):
        file = run_dir / pointer
        if file.is_file():
            name = file.read_text(encoding="utf-8").strip()
            if not (run_dir / "checkpoints" / name).is_dir():
                found.append(f"{pointer} points to {name}, which is not there")
    return found


def missing_rows(run_dir: Path, reference: dict[str, Any]) -> list[str]:
    """Metric rows that a checkpoint counts as done and that are nowhere, or otherwise."""
    steps = [int(path.name.removeprefix("step-")) for path in visible(run_dir)]
    if not steps:
        return []
    with Store.open(run_dir.parent / "store.db", readonly=True) as store:
        runs = store.runs()
        found = {(row.key, row.step): row.value for row in store.metrics(runs[0].run_id)} if runs else {}
    beside = run_dir / "metrics.spill.jsonl"  # where rows are safe while the store is out of reach
    if beside.is_file():
        found |= {(row.key, row.step): row.value for row in spill.read(beside)}
    problems = []
    for name, value in reference.items():
        if not name.startswith("row/"):
            continue
        key, step = name.removeprefix("row/").rsplit("/", 1)
        # A validation that a signal cut short is left to the resumed run.
        if int(step) > max(steps) or (int(step) == max(steps) and key.startswith("val/")):
            continue
        if (key, int(step)) not in found:
            problems.append(f"step-{max(steps)} is saved, but {key} of step {step} is lost")
        elif not is_clock(key) and found[key, int(step)] != value:
            problems.append(f"{key} of step {step} is {found[key, int(step)]!r} instead of {value!r}")
    return problems
