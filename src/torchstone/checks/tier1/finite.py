"""Which module is the first to turn finite inputs into NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchstone.adapt.stack import state_of


def all_finite(tensors: list[Tensor]) -> bool:
    return all(bool(torch.isfinite(each).all()) for each in tensors)


def not_numbers(tensors: list[Tensor], allow_minus_infinity: bool = True) -> bool:
    """NaN anywhere, or infinity; scores of minus infinity are a usual mask and allowed where said."""
    for each in tensors:
        if bool(torch.isnan(each).any()):
            return True
        infinite = torch.isposinf(each) if allow_minus_infinity else torch.isinf(each)
        if bool(infinite.any()):
            return True
        if bool(torch.isneginf(each).all()):
            return True
    return False


def first_bad_module(module: nn.Module, run: Callable[[], Any]) -> str | None:
    """Name of the innermost module that made the first NaN or infinity out of finite inputs during `run`."""
    found: list[str] = []
    handles = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            state = state_of(output)
            if found or state is None or not not_numbers([state]):
                return
            given = [
                x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.is_floating_point()
            ]
            # Masks of minus infinity are legal inputs.
            if not not_numbers(given):
                found.append(name)

        return hook

    try:
        for name, each in module.named_modules():
            handles.append(each.register_forward_hook(watch(name), with_kwargs=True))
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
