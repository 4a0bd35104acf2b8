"""Room on the disk: known before the first step, waited for in the middle."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from torchstone._errors import DiskFull
from torchstone._seeds import preserved_rng
from torchstone.tracking.checkpoint import untie
from torchstone.tracking.state_file import pack
from torchstone.tracking.tensor_file import num_bytes
from torchstone.train.progress import Progress
from torchstone.train.snapshot import Stateful, take_snapshot

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_LOOK_S = 0.1
"""How often a waiting save looks whether it shall stop."""
_SMALL_FILES = 64 << 10
"""Structure, manifest and what the file system adds, at least."""
_CLOSE = 1.25


# --- before the first step ----------------------------------------------------------------------


def checkpoint_bytes(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Stateful] | None = None,
    kept: Collection[str] | None = None,
) -> int:
    """Size of a checkpoint once the optimizer has its state. Also finds what cannot be stored at all."""
    snapshot = take_snapshot(module, optimizer, Progress(), extra, kept)
    size = num_bytes(untie(snapshot.tensors)[0]) + num_bytes(pack(dict(snapshot.state))[1])
    return size + _state_to_come(optimizer) + _SMALL_FILES


def _state_to_come(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that the first step adds; some optimizers begin with a state that is no parameter's."""
    if any(each in optimizer.state for group in optimizer.param_groups for each in group["params"]):
        return 0
    values = [value for each in optimizer.state.values() for value in each.values()]
    now = sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
    return state_after_a_step(optimizer) - now


def state_after_a_step(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the state that an optimizer will have: its twin takes a step on tensors without memory."""
    parameters = [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
    try:
        with preserved_rng():
            return num_bytes(pack(_twin_after_a_step(optimizer, parameters)["state"])[1])
    # Any optimizer may come here, and an estimate is no reason to die.
    except Exception as error:
        log.debug("size of the optimizer's state is a guess: %s", error)
        return sum(2 * 4 * each.numel() for each in parameters)


def _twin_after_a_step(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> dict[str, Any]:
    twins: dict[int, Any] = {}
    for each in parameters:
        twin = nn.Parameter(torch.empty_like(each, device="meta"))
        twin.grad = torch.empty_like(twin)
        twins[id(each)] = twin
    twin_optimizer = copy.deepcopy(optimizer, twins)
    stands_for: list[int] = []
    for group in twin_optimizer.param_groups:
        for way in {"fused", "foreach", "capturable"} & group.keys():
            group[way] = False
        # Layers repeat, and torch works out in Python what an operation without memory comes to.
        kinds = Counter((each.shape, each.dtype, each.grad is None) for each in group["params"])
        first = {(each.shape, each.dtype, each.grad is None): each for each in reversed(group["params"])}
        group["params"] = [first[kind] for kind in kinds]
        stands_for += kinds.values()
    twin_optimizer.step()
    # Sizes count here, not values; `pack` refuses tensors without memory for good reason.
    return {
        "state": [
            _empty(value)
            for place, entries in twin_optimizer.state_dict()["state"].items()
            for value in entries.values()
            for _ in range(stands_for[place] if isinstance(place, int) else 1)
        ]
    }


def _empty(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return None
    # One value in memory, seen in every place.
    return torch.empty((), dtype=value.dtype).expand(value.shape)


def checkpoints_at_once(keep_last: int, keep_best: int, saves_to_come: int) -> int:
    """Most checkpoints that lie on the disk at a time: the kept ones and the one being written."""
    return min(keep_last + keep_best + 1, saves_to_come)


def require_space(checkpoints: Path, size: int, at_once: int, there: int) -> None:
    """Refuse a run whose checkpoints will not fit; `there` of them take their room already."""
    needed = size * max(at_once - there, 1)
    free = shutil.disk_usage(checkpoints).free
    numbers = (
        f"a checkpoint takes {readable(size)}, up to {max(at_once - there, 1)} more are there at once: "
        f"{readable(needed)}; {readable(free)} are free"
    )
    if free < needed:
        raise DiskFull(
            "the checkpoints of this run will not fit on the disk",
            where=str(checkpoints),
            why=numbers,
            next=f"free {readable(needed - free)}, take another --run-dir, or keep fewer (train.keep_last)",
        )
    if free < _CLOSE * needed:
        log.warning("the disk is nearly full for this run: %s (%s)", numbers, checkpoints)


# --- in the middle ------------------------------------------------------------------------------


def when_there_is_space(
    attempt: Callable[[], T], checkpoints: Path, size: int, stop_asked: Callable[[], str | None]
) -> T:
    """Do `attempt`, again and again while the disk is full, at growing intervals.

    Raises its DiskFull when `stop_asked` names a reason to give up.
    """
    pause = FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except DiskFull as full:
            while True:
                free = _free(checkpoints)
                log.warning(
                    "training waits: %s. It needs %s in %s, where %s are free; next look in %g s",
                    *(full.what, readable(size), checkpoints, readable(free), pause),
                )
                if reason := _asleep(pause, stop_asked):
                    full.why = f"stopped by {reason} while it waited for space; {full.why}"
                    raise
                pause = min(2 * pause, LONGEST_PAUSE_S)
                if _free(checkpoints) >= size:
                    break


def _asleep(seconds: float, stop_asked: Callable[[], str | None]) -> str | None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if reason := stop_asked():
            return reason
        time.sleep(min(_LOOK_S, left))
    return stop_asked()


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def readable(size: int) -> str:
    """In MB or GB, as disks count."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
