"""Which device a cell gets, or why it waits: a rule on plain values, and who reads them.

    gpus = visible(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    place_on(gpus, held=[("GPU-1a", 4 * GIB)], need=6 * GIB)      # a Gpu, or a Wait that says why

A cell holds little of its memory in its first seconds, so what a cell of ours is forecast to take counts as
taken from its start. A forecast is a lower bound (weights, gradients, moments); a cell that fits on no device
even alone is tried where there is most, and ends with what the device says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchstone._errors import UsageError
from torchstone._optional import available, require

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device, as the driver tells of it."""

    uuid: str
    """What CUDA_VISIBLE_DEVICES may name: it means the same device in every order of numbering."""
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Wait:
    """No device can take the cell now."""

    why: str


def place_on(gpus: Sequence[Gpu], held: Sequence[tuple[str, int]], need: int, each: int = 1) -> Gpu | Wait:
    """The device for a cell that needs so many bytes.

    held: (uuid, forecast) of the cells that are at work; each: how many of them a device may have.
    Of the devices with room the one with the fewest cells is taken, then the one with most memory free.
    """
    cells = {gpu.uuid: [bytes_ for uuid, bytes_ in held if uuid == gpu.uuid] for gpu in gpus}
    left = {gpu.uuid: min(gpu.free_bytes, gpu.total_bytes - sum(cells[gpu.uuid])) for gpu in gpus}
    open_ = [gpu for gpu in gpus if len(cells[gpu.uuid]) < each]
    if not open_:
        return Wait("every GPU has its cells")
    if all(need > gpu.total_bytes for gpu in gpus):
        idle = [gpu for gpu in open_ if not cells[gpu.uuid]]
        if not idle:
            return Wait(f"it needs {_gib(need)}, more than any GPU has, and tries alone")
        return max(idle, key=lambda gpu: gpu.total_bytes)
    fitting = [gpu for gpu in open_ if left[gpu.uuid] > need]
    if not fitting:
        best = max(open_, key=lambda gpu: left[gpu.uuid])
        return Wait(f"it needs {_gib(need)}, and {best.name} has {_gib(left[best.uuid])} left")
    return min(fitting, key=lambda gpu: (len(cells[gpu.uuid]), -left[gpu.uuid]))


def place_on_host(available_bytes: int, working: int, need: int) -> Wait | None:
    """None: the cell may start. The first is always tried."""
    if not working or available_bytes > need:
        return None
    return Wait(f"it needs {_gib(need)}, and {_gib(available_bytes)} of the host's memory is free")


def visible(gpus: Sequence[Gpu], named: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves us: numbers in the driver's order, or beginnings of a uuid."""
    if named is None:
        return list(gpus)
    found = []
    for text in filter(None, map(str.strip, named.split(","))):
        if text.lstrip("-").isdigit():
            if not 0 <= int(text) < len(gpus):
                break  # CUDA too stops at the first that is none
            found.append(gpus[int(text)])
            continue
        matching = [gpu for gpu in gpus if gpu.uuid.startswith(text)]
        if len(matching) != 1:
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES names {text!r}, which is {len(matching)} of the GPUs here",
                why="GPUs: " + (", ".join(gpu.uuid for gpu in gpus) or "none"),
                next="nvidia-smi -L lists them",
            )
        found += matching
    return found


def read_gpus() -> list[Gpu]:
    """NVIDIA's devices as they are now; none where the driver or the extra `[gpu]` is absent."""
    if not available("pynvml"):
        return []
    pynvml: Any = require("pynvml", "gpu")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_read(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _read(nvml: Any, number: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
    )


def _text(told: str | bytes) -> str:
    return told.decode() if isinstance(told, bytes) else told


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
