"""The device that a job runs on."""

from __future__ import annotations

import torch

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
            f"device {name!r} cannot be used here", why=str(error).splitlines()[0], next="--device cpu"
        ) from error
    return device
