"""How many processes a training job takes, from the configuration, the machine and who started us."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from torchstone._errors import ConfigError, EnvironmentProblem
from torchstone.train.config import LoopConfig
from torchstone.train.notebook import refuse_in_notebook
from torchstone.train.rank_place import RankPlace, rank_place


def processes_to_launch(
    loop: LoopConfig, device: str | None = None, environ: Mapping[str, str] = os.environ
) -> int:
    """How many ranks this process must start; 1: it trains itself (alone, or as the rank it is)."""
    place = rank_place(environ)
    if place is not None:
        require_world(loop, place)
        return 1
    if loop.strategy != "auto":
        refuse_in_notebook(loop.strategy)
    wanted = num_processes(loop, device)
    if loop.num_nodes > 1:
        command = f"torchrun --nnodes {loop.num_nodes} --nproc-per-node {wanted} --rdzv-backend c10d"
        raise EnvironmentProblem(
            f"train.num_nodes = {loop.num_nodes}, but this process was started on one machine only",
            next=f"on each machine: {command} --rdzv-endpoint HOST:29400 -m torchstone train ...; or srun",
        )
    if wanted > 1:
        refuse_in_notebook(loop.strategy)
    return wanted


def num_processes(loop: LoopConfig, device: str | None = None) -> int:
    """Processes per machine: what was asked for, else one per GPU where a strategy asks for many."""
    available, kind = available_devices(device)
    wanted: int | None = loop.devices
    if wanted is None:
        return available if loop.strategy != "auto" and kind == "GPU" else 1
    if wanted > available:
        raise EnvironmentProblem(
            f"train.devices = {wanted}, but there {'is' if available == 1 else 'are'} {available} here",
            where=f"counted: {kind}{'s' if available != 1 else ''}",
            next=f"--devices {available}",
        )
    if wanted > 1 and device is not None and ":" in device:
        raise ConfigError(
            f"--device {device} and train.devices = {wanted} contradict each other",
            next=f"--device {device.partition(':')[0]}, and CUDA_VISIBLE_DEVICES to choose among GPUs",
        )
    return wanted


def available_devices(device: str | None) -> tuple[int, str]:
    """How many processes a machine takes, and what was counted."""
    kind = (device or "").partition(":")[0]
    if kind in ("", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count(), "GPU"
    if kind == "mps" or (kind == "" and torch.backends.mps.is_available()):
        return 1, "MPS device"
    return os.cpu_count() or 1, "CPU core"


def refuse_apart(loop: LoopConfig) -> None:
    """What several ranks cannot do, or not yet; each would need them to agree on something more."""
    apart = {"train.on_nonfinite=rollback": loop.on_nonfinite == "rollback"}
    if loop.strategy == "fsdp":
        apart |= {
            "train.loss_chunk": loop.loss_chunk is not None,
            "train.ema_decay": loop.ema_decay is not None,
            "train.gradient_checkpointing": loop.gradient_checkpointing,
            "train.lora_rank": loop.lora_rank != 0,
            "train.compile": loop.compile != "none",
            "train.precision=fp16": loop.precision == "fp16",
        }
    wrong = [name for name, is_set in apart.items() if is_set]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} has no place in a run on several devices",
            where=f"train.strategy = {loop.strategy}",
            next="take one of the two out" + ("" if loop.strategy != "fsdp" else ", or use --strategy ddp"),
        )


def require_world(loop: LoopConfig, place: RankPlace) -> None:
    """What the configuration says of the number of processes must be what the starter made of it."""
    if loop.devices is not None and loop.devices * loop.num_nodes != place.world:
        raise ConfigError(
            f"train.devices = {loop.devices} on {loop.num_nodes} machines contradicts the environment",
            why=f"{place.starter} started {place.world} processes",
            next="leave both out: the environment tells",
        )
