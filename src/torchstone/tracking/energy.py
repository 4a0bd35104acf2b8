"""Joules that meters of the machine have counted: processor packages (RAPL) and one NVIDIA GPU (NVML).

    before = read_meters("GPU-1a2b")
    ...
    spent(before, read_meters("GPU-1a2b"))        # {"package-0": 812.5, "GPU-1a2b": 4021.0}

A meter counts for the whole device, whoever uses it. Where there is none (virtual machines, no right to read
the counters), nothing is told; power is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._optional import available, require

KIND = "energy"
"""Of the event that a session of a run leaves."""
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """A counter that only rises, until it begins anew at `wraps_at`."""

    name: str
    joules: float
    wraps_at: float | None = None


def read_meters(gpu: str | None = None, powercap: Path = POWERCAP) -> list[Meter]:
    """All meters that can be read now; `gpu` is the uuid of the device that is used."""
    return [*_packages(powercap), *(_gpu(gpu) if gpu else ())]


def spent(before: Iterable[Meter], after: Iterable[Meter]) -> dict[str, float]:
    """Joules between two readings, by meter; one that is missing in either is left out."""
    first = {each.name: each for each in before}
    found = {}
    for now in after:
        if (was := first.get(now.name)) is None:
            continue
        joules = now.joules - was.joules
        if joules < 0:
            if now.wraps_at is None:
                continue  # it was reset
            joules += now.wraps_at
        found[now.name] = joules
    return found


def _packages(powercap: Path) -> Iterable[Meter]:
    """RAPL: one domain per processor; those inside it (cores, memory) are counted in it."""
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue
        try:
            name, counted, wraps = (
                (folder / file).read_text().strip() for file in ("name", "energy_uj", "max_energy_range_uj")
            )
            yield Meter(name, int(counted) / 1e6, int(wraps) / 1e6)
        except (OSError, ValueError):  # since 2020 only root may read it
            continue


def _gpu(uuid: str) -> Iterable[Meter]:
    if not available("pynvml"):
        return
    nvml: Any = require("pynvml", "gpu")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        yield Meter(uuid, nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    except nvml.NVMLError:  # before Volta there is no such counter
        return
    finally:
        nvml.nvmlShutdown()
