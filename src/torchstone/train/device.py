"""The device that a job runs on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchstone._errors import EnvironmentProblem
from torchstone.train.precision import reserve_expandable


def choose_device(name: str | None) -> torch.device:
    """The device that was asked for, or the best one here."""
    if name is None:
        if torch.cuda.is_available():
            reserve_expandable(torch.device("cuda"))
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        reserve_expandable(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EnvironmentProblem(
            f"device {name!r} cannot be used here",
            why=str(error).partition("\n")[0] or type(error).__name__,
            next="--device cpu",
        ) from error
    return device


def way_to(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """How a batch's tensor of `dtype` goes to `device`: the arguments of `Tensor.to`.

    Only CUDA copies beside the host. To MPS such a copy may read memory that was given back meanwhile, and
    then the values are wrong without a word (pytorch#139550, #189690). Apple's GPU has no float64.
    """
    way: dict[str, Any] = {"device": device, "non_blocking": device.type == "cuda"}
    if device.type == "mps" and dtype == torch.float64:
        way["dtype"] = torch.float32
    return way


def bring(module: nn.Module, device: torch.device) -> None:
    """Move a model to `device`, in place."""
    if device.type == "mps":
        tensors = [*module.named_parameters(), *module.named_buffers()]
        exact = [name for name, tensor in tensors if tensor.dtype == torch.float64]
        if exact:
            raise EnvironmentProblem(
                "this model cannot go to Apple's GPU, which has no float64",
                where=f"{exact[0]}" + (f" and {len(exact) - 1} more" if len(exact) > 1 else ""),
                next="--device cpu, or model.float()",
            )
    module.to(device)
