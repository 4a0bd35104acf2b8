"""What a run uses, in a few words each: device, memory, formats, kernels. Read from what is, not wished."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil
import torch

from torchstone.train.attention_kernel import summary
from torchstone.train.auto import explained

if TYPE_CHECKING:
    from torchstone.config.resolve import Resolved
    from torchstone.train.compiling import Compiled
    from torchstone.train.engine import Engine
    from torchstone.train.levers import Choice

GIB = 2**30


def used_settings(
    engine: Engine,
    device: torch.device,
    config: Resolved,
    kernels: dict[str, str],
    compilation: Compiled,
    blocks: list[str],
    choice: Choice | None,
) -> dict[str, str]:
    """Name -> words, in the order in which they are shown."""
    loop = config.train
    settings = {
        "device": _device(device),
        "memory": _memory(device),
        "precision": loop.precision + (", deterministic" if loop.deterministic else ""),
        "optimizer": _optimizer(engine.optimizer),
        "attention": summary(kernels),
        "batch": f"{loop.batch_size} examples x {loop.gradient_accumulation_steps} micro-steps per update",
    }
    if chosen := explained(config):
        settings["auto"] = chosen
    if loop.compile != "none":
        settings["compile"] = compilation.mode + (
            f" (given up: {compilation.why})" if compilation.why else f", {compilation.seconds:.1f} s"
        )
    if choice is not None:
        settings["levers"] = choice.words
    if blocks:
        settings["recomputed"] = f"{len(blocks)} blocks ({blocks[0]} to {blocks[-1]})"
    if loop.ema_decay is not None:
        settings["average"] = f"weights averaged with decay {loop.ema_decay:g}; they are validated"
    if engine.constraint.words:
        settings["pruning"] = engine.constraint.words
    return settings


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        kind = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return f"{device}, {torch.cuda.get_device_name(device)} ({kind})"
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} of {os.cpu_count()} threads"
    return str(device)


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
    return f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"


def _optimizer(optimizer: torch.optim.Optimizer) -> str:
    ways = [way for way in ("fused", "foreach") if optimizer.defaults.get(way)]
    return type(optimizer).__name__ + (f", {ways[0]}" if ways else "")
