"""The checkpoint format: written whole or not at all, verified before it is used, replaced when bad.

    checkpoints/step-700/model.safetensors   weights; tied ones once
                         state.safetensors   tensors of everything else
                         state.json          how they hang together, and all that is no tensor
                         shards/             tensors that were split over several processes, if any
                         manifest.json       size and sha256 of each file, config hash, the model's origin
    checkpoints/quarantine/                  folders that failed verification

A checkpoint is written into a hidden neighbour, flushed, and takes its name in one rename, so that a
reader never sees a part of one. Nothing in it is a pickle. Checkpoints of version 0.1.0 hold a `state.pt`
instead of the two state files; they are read with weights_only=True, which executes nothing from it.
When to save and what to keep is decided in `train/`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import DiskFull, TorchstoneError
from torchstone._files import flush, read_json, sha256, sha256_bytes, take_place, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from torchstone.tracking.shards import Shards

SCHEMA = "torchstone.checkpoint/1"
WEIGHTS = "model.safetensors"
STATE = "state.json"
STATE_TENSORS = "state.safetensors"
OLDER_STATE = "state.pt"
MANIFEST = "manifest.json"
SEAL = "manifest_sha256"
QUARANTINE = "quarantine"
SHARDS = "shards"
SPLIT_WEIGHTS, SPLIT_STATE = "model/", "state/"
"""What names of split tensors begin with."""
_NAME = re.compile(r"step-(\d+)")
_HASHED_ASIDE = 4 << 20
"""Bytes above which a thread that hashes is worth its start."""


class CheckpointDamaged(TorchstoneError):
    """A checkpoint whose files are not what its manifest says."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified when it was opened."""

    path: Path
    step: int
    manifest: dict[str, Any]

    @property
    def config_hash(self) -> str:
        return str(self.manifest["config_hash"])

    @property
    def model(self) -> dict[str, Any]:
        """What rebuilds the model: target, class, config."""
        return dict(self.manifest.get("model") or {})

    @property
    def is_split(self) -> bool:
        """Whether several processes wrote it, each a part."""
        return any(name.startswith(f"{SHARDS}/") for name in self.manifest["files"])

    def tensors(self) -> dict[str, Tensor]:
        """The model's state dict, tied entries under all their names."""
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(self.path / WEIGHTS)
        if self.is_split:
            from torchstone.tracking.shards import read_shards

            tensors |= read_shards(self.path / SHARDS, SPLIT_WEIGHTS)
        for name, kept in self.manifest.get("tied", {}).items():
            tensors[name] = tensors[kept]
        return tensors

    @property
    def metrics(self) -> dict[str, float]:
        """What validation measured at this step; empty where it was not validated."""
        return dict(self.manifest.get("metrics") or {})

    def state(self) -> dict[str, Any]:
        """Optimizer, progress, generators; never executes code from the file."""
        state: dict[str, Any]
        if OLDER_STATE in self.manifest["files"]:
            import torch

            state = torch.load(self.path / OLDER_STATE, map_location="cpu", weights_only=True)
            return state
        from safetensors.torch import load_file

        from torchstone.tracking.state_file import unpack

        tensors: dict[str, Tensor] = load_file(self.path / STATE_TENSORS)
        if self.is_split:
            from torchstone.tracking.shards import read_shards

            tensors |= read_shards(self.path / SHARDS, SPLIT_STATE)
        state = unpack(read_json(self.path / STATE), tensors)
        return state


def write_checkpoint(
    checkpoints: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    config_hash: str,
    model: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    shards: Shards | None = None,
) -> Path:
    """Write `checkpoints/step-N`, in the place of one that is already there.

    `shards` hold the content of the split tensors, and become part of the checkpoint.

    Errors: DiskFull, NotStorable (a value that no checkpoint can hold, by its path), OSError.
    """
    checkpoints = Path(checkpoints)
    final = checkpoints / f"step-{step}"
    partial = checkpoints / f".step-{step}.{os.getpid()}.partial"
    record = {
        "schema": SCHEMA,
        "step": step,
        "config_hash": config_hash,
        "model": dict(model or {}),
        "metrics": {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
    }
    try:
        with disk_full(f"no space left for the checkpoint of step {step}", checkpoints):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _fill(partial, record, tensors, state, shards)
            if final.exists():
                take_place(partial, final)
            else:
                partial.rename(final)
            flush(checkpoints)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


@contextmanager
def disk_full(what: str, where: Path) -> Iterator[None]:
    """Turn the system's word for a full disk, or a used up quota, into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            what,
            where=str(where),
            why="the checkpoints before it are untouched",
            next="free some space and continue with --resume auto",
        ) from error


def _fill(
    folder: Path,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    shards: Shards | None,
) -> None:
    import torch

    from torchstone.tracking.hashed_file import hashed_file
    from torchstone.tracking.state_file import is_split, pack
    from torchstone.tracking.tensor_file import num_bytes, write_tensors

    kept, tied = untie(tensors)
    structure, state_tensors = pack(dict(state))
    if shards is not None:
        kept = {name: tensor for name, tensor in kept.items() if not is_split(tensor)}
        state_tensors = {name: tensor for name, tensor in state_tensors.items() if not is_split(tensor)}
    large = num_bytes(kept) + num_bytes(state_tensors) > _HASHED_ASIDE
    hasher = ThreadPoolExecutor(1, thread_name_prefix="torchstone-hash") if large else None
    try:
        written = {
            WEIGHTS: write_tensors(folder / WEIGHTS, kept, hasher),
            STATE_TENSORS: write_tensors(folder / STATE_TENSORS, state_tensors, hasher),
        }
        with hashed_file(folder / STATE, hasher) as written[STATE]:
            written[STATE].write(
                json.dumps(structure, separators=(",", ":"), allow_nan=False).encode("ascii")
            )
        files = {name: {"bytes": file.num_bytes, "sha256": file.sha256()} for name, file in written.items()}
    finally:
        if hasher is not None:
            hasher.shutdown(cancel_futures=True)
    if shards is not None:
        shards.folder.rename(folder / SHARDS)
        files |= {f"{SHARDS}/{name}": dict(file) for name, file in shards.files.items()}
    manifest = {**record, "torch": str(torch.__version__), "tied": tied, "files": files}
    write_json(folder / MANIFEST, {**manifest, SEAL: seal_of(manifest)})


def seal_of(manifest: Mapping[str, Any]) -> str:
    """sha256 over the content of a manifest, the seal itself left out."""
    content = {key: value for key, value in manifest.items() if key != SEAL}
    plain = json.loads(json.dumps(content, default=str))
    return sha256_bytes(json.dumps(plain, sort_keys=True).encode("ascii"))


def untie(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each memory once: the tensors to write, and other name -> written name.

    Tensors that overlap without being equal (a view of a part) are each written in full; the file format
    knows no shared memory.
    """
    from torchstone.tracking.state_file import memory_of

    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        place = memory_of(tensor)
        if place in seen:
            tied[name] = seen[place]
        else:
            seen[place], kept[name] = name, tensor.detach()
    return kept, tied


# --- reading ------------------------------------------------------------------------------------


def steps_of(checkpoints: Path) -> list[int]:
    """Steps that have a checkpoint (not yet verified), oldest first."""
    if not Path(checkpoints).is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in Path(checkpoints).iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify every file of a checkpoint against its manifest; `CheckpointDamaged` says what is wrong."""
    path = Path(path)
    problems = damage(path)
    if problems:
        raise CheckpointDamaged(
            f"checkpoint {path.name} cannot be used",
            where=str(path),
            why="; ".join(problems),
            next="continue with --resume auto, which takes the newest good one",
        )
    manifest = read_json(path / MANIFEST)
    return Checkpoint(path, int(manifest["step"]), manifest)


def damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint folder; empty if nothing is."""
    try:
        manifest = read_json(path / MANIFEST)
        schema, files = manifest["schema"], manifest["files"]
        expected = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
        step = int(manifest["step"])
        seal = manifest.get(SEAL)
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"]
    if schema != SCHEMA:
        return [f"{MANIFEST} has schema {schema!r}, not {SCHEMA!r}"]
    if seal != seal_of(manifest) and (seal is not None or OLDER_STATE not in expected):
        return [f"{MANIFEST} has other content than was written"]
    if (name := _NAME.fullmatch(path.name)) and int(name[1]) != step:
        return [f"{MANIFEST} is that of step {step}"]
    needed = {WEIGHTS} | ({OLDER_STATE} if OLDER_STATE in expected else {STATE, STATE_TENSORS})
    if missing := needed - expected.keys():
        return [f"{MANIFEST} does not list {', '.join(sorted(missing))}"]
    if strange := [
        name
        for name in expected
        if Path(name.removeprefix(f"{SHARDS}/")).name != name.removeprefix(f"{SHARDS}/")
    ]:
        return [f"{MANIFEST} lists {strange[0]!r}, which lies elsewhere"]
    with ThreadPoolExecutor(2) as readers:
        found = readers.map(
            lambda each: _file_damage(path / each[0], *each[1]),
            sorted(expected.items(), key=lambda each: -each[1][0]),
        )
        return [problem for problem in found if problem]


def _file_damage(file: Path, size: int, digest: str) -> str:
    if not file.is_file():
        return f"{file.name} is missing"
    if (found := file.stat().st_size) != size:
        return f"{file.name} has {found} bytes instead of {size}"
    if sha256(file) != digest:
        return f"{file.name} has other content than was written"
    return ""


def newest_good(checkpoints: Path, *, move_bad: bool = True) -> Checkpoint | None:
    """The newest checkpoint that verifies; bad ones met on the way go to `quarantine/`."""
    for step in reversed(steps_of(checkpoints)):
        path = Path(checkpoints) / f"step-{step}"
        try:
            return open_checkpoint(path)
        except CheckpointDamaged:
            if move_bad:
                quarantine(path)
    return None


def quarantine(path: Path) -> Path:
    """Move a checkpoint folder out of the way, keeping it for whoever wants to look."""
    ward = path.parent / QUARANTINE
    ward.mkdir(exist_ok=True)
    target, number = ward / path.name, 1
    while target.exists():
        number += 1
        target = ward / f"{path.name}.{number}"
    path.rename(target)
    flush(path.parent)
    return target


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint so that no reader meets the half of one: it loses its name first."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(checkpoints: Path) -> None:
    """Remove what killed writers left behind. Only whoever holds the run's lock may do this."""
    for leftover in Path(checkpoints).glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
