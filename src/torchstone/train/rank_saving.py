"""Checkpoints of several ranks: rank 0 writes, the others give what only they have.

Copied models differ between ranks in their generators alone. Split models are written by all ranks, each its
slices, except at the end of a run: then rank 0 gathers the whole, so that the trained model is a plain
checkpoint. Either form resumes on any number of ranks.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from torchstone._files import read_json
from torchstone._seeds import rng_state
from torchstone.tracking.checkpoint import (
    SHARDS,
    SPLIT_STATE,
    SPLIT_WEIGHTS,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    Checkpoint,
    untie,
)
from torchstone.tracking.partial import KEPT
from torchstone.tracking.shards import Shards, read_split, write_shards
from torchstone.tracking.state_file import is_split, map_tensors, pack, unpack
from torchstone.train.hooks import CheckpointInfo
from torchstone.train.progress import Pace, Progress
from torchstone.train.ranks import Ranks
from torchstone.train.saving import Keeping, Saver
from torchstone.train.snapshot import RNG_OF_RANKS, Snapshot, take_snapshot


class Writer(Saver):
    """Rank 0's."""

    def __init__(
        self,
        keeping: Keeping,
        flush_rows: Callable[[], object],
        stop_asked: Callable[[], str | None],
        ranks: Ranks,
    ) -> None:
        super().__init__(keeping, flush_rows, stop_asked)
        self._ranks = ranks
        self._total_steps = 0

    def begin(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, pace: Pace, progress: Progress
    ) -> None:
        super().begin(module, optimizer, pace, progress)
        self._total_steps = pace.total_steps

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        self.wait()
        if not self._ranks.from_main(lambda: self.has_saved(progress)):
            super().save(module, optimizer, progress)

    def saves_aside(self, snapshot: Snapshot) -> bool:
        return snapshot.shards is None and super().saves_aside(snapshot)

    def _take(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Snapshot:
        return _take_together(self.keeping, self._ranks, self._total_steps, module, optimizer, progress)


class Giver(Saver):
    """Every other rank's: takes part in the saves, and writes nothing but its slices."""

    def __init__(self, keeping: Keeping, ranks: Ranks) -> None:
        super().__init__(keeping)
        self._ranks = ranks
        self._total_steps = 0

    def begin(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, pace: Pace, progress: Progress
    ) -> None:
        self._total_steps = pace.total_steps

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        if not self._ranks.from_main(_known_to_main):
            _take_together(self.keeping, self._ranks, self._total_steps, module, optimizer, progress)

    def collect(self) -> Iterator[CheckpointInfo]:
        return iter(())


def _known_to_main() -> bool:
    """Whether this step is saved already, as it is when a run goes on from it."""
    raise AssertionError("asked of a rank that does not write")


def _take_together(
    keeping: Keeping,
    ranks: Ranks,
    total_steps: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> Snapshot:
    """All ranks call this at the same step."""
    snapshot = take_snapshot(module, optimizer, progress, keeping.extra, keeping.model.get(KEPT))
    state = {**snapshot.state, RNG_OF_RANKS: ranks.gather(rng_state())}
    snapshot = dataclasses.replace(snapshot, state=state)
    if not any(map(is_split, snapshot.tensors.values())):
        return snapshot
    if progress.stopped_early or progress.step >= total_steps:
        return _gathered(snapshot)
    return dataclasses.replace(snapshot, shards=_written(snapshot, keeping.checkpoints, ranks))


def _gathered(snapshot: Snapshot) -> Snapshot:
    """Whole tensors in the memory of the host; what was one tensor under two names stays one."""
    whole: dict[int, Tensor] = {}

    def gather(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        if id(tensor) not in whole:
            part: Any = tensor.detach()
            whole[id(tensor)] = part.full_tensor().cpu()
        return whole[id(tensor)]

    tensors = {name: gather(tensor) for name, tensor in snapshot.tensors.items()}
    return dataclasses.replace(snapshot, tensors=tensors, state=map_tensors(dict(snapshot.state), gather))


def _written(snapshot: Snapshot, checkpoints: Path, ranks: Ranks) -> Shards:
    folder = checkpoints / f".step-{snapshot.step}.shards.partial"
    ranks.from_main(lambda: _empty(folder))
    kept, _ = untie(snapshot.tensors)
    _, in_state = pack(dict(snapshot.state))
    split = {SPLIT_WEIGHTS + name: tensor for name, tensor in kept.items() if is_split(tensor)}
    split |= {SPLIT_STATE + name: tensor for name, tensor in in_state.items() if is_split(tensor)}
    files: dict[str, dict[str, Any]] = {}
    for written in ranks.gather(write_shards(folder, split, ranks.rank)):
        files |= written
    return Shards(folder, files)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitCheckpoint(Checkpoint):
    """A checkpoint, split or plain, whose tensors come split as those of the module are."""

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        own = self.module.state_dict()
        if not self.is_split:
            return {name: _like(tensor, own.get(name)) for name, tensor in super().tensors().items()}
        tensors = _file(self.path / WEIGHTS) | read_split(self.path / SHARDS, SPLIT_WEIGHTS, self._mesh)
        for name, kept in self.manifest.get("tied", {}).items():
            tensors[name] = tensors[kept]
        return tensors

    def state(self) -> dict[str, Any]:
        if self.is_split:
            tensors = _file(self.path / STATE_TENSORS)
            tensors |= read_split(self.path / SHARDS, SPLIT_STATE, self._mesh)
            state: dict[str, Any] = unpack(read_json(self.path / STATE), tensors)
            return state
        state = super().state()
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        for number, values in state["optimizer"]["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    values[name] = _like(value, parameters[number])
        return state

    @property
    def _mesh(self) -> Any:
        return next(each.device_mesh for each in self.module.parameters() if isinstance(each, DTensor))


def _file(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _like(tensor: Tensor, own: Any) -> Tensor:
    """The slice of this rank. The file is mapped, so the rest is not read."""
    if not isinstance(own, DTensor) or not tensor.dim():
        return tensor
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
