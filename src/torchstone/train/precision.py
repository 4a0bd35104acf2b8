"""Number formats and the switches of torch that decide how exactly and how quickly it computes.

`numerics` sets them for the length of a run and puts them back, so that a deterministic run does not slow
the next one and a quick one does not blur it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from torchstone._errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_of(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context of a forward pass in `precision`; weights stay in their own format."""
    dtype = _DTYPES.get(precision)
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)


def require_usable(precision: str, device: torch.device) -> None:
    """Refuse a format that this device has no units for: it would fail, or be without effect."""
    if precision == "tf32" and not (device.type == "cuda" and _has_tf32(device)):
        raise ConfigError(
            "train.precision = tf32 has no effect here",
            where=str(device),
            why="only NVIDIA GPUs since Ampere multiply in TF32",
            next="--set train.precision=fp32, or bf16",
        )

    if precision == "bf16" and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise ConfigError(
            "train.precision = bf16 cannot be used here",
            where=str(device),
            why="Metal computes with bfloat16 since macOS 14",
            next="--set train.precision=fp32, or fp16",
        )


def _has_tf32(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def reserve_expandable(device: torch.device) -> None:
    """Let the CUDA allocator grow its segments, which wastes less on batches of changing size.

    Only a setting that nobody made, and only before the first allocation.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if device.type == "cuda" and not any(map(os.environ.get, names)):
        os.environ[names[1]] = "expandable_segments:True"


@contextlib.contextmanager
def numerics(precision: str, *, deterministic: bool) -> Iterator[None]:
    """Deterministic or quick for the length of a run, and back."""
    before = _switches()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        _restore(before)


def _switches() -> dict[str, Any]:
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def _restore(before: dict[str, Any]) -> None:
    torch.use_deterministic_algorithms(before["algorithms"], warn_only=before["warn_only"])
    torch.backends.cudnn.deterministic = before["cudnn_deterministic"]
    torch.backends.cudnn.benchmark = before["cudnn_benchmark"]
    torch.backends.cuda.matmul.allow_tf32 = before["matmul_tf32"]
    torch.backends.cudnn.allow_tf32 = before["cudnn_tf32"]
