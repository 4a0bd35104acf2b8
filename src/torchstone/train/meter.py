"""Counts what one call costs: bytes of live tensors at the peak, operations and multiply-adds. Not time.

The counts come from the dispatcher, so they are the same on every run and every machine; buffers inside one
fused kernel are not seen. `growth` turns costs at two sizes into an exponent.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active: bytes of the storages made by operations and still alive (`now`), and the most there
    were (`peak`).
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = self.multiply_adds = 0
        # Views of weights and inputs share storages that were there before; holding them keeps
        # their ids unique.
        self._before = [tensor.untyped_storage() for tensor in existing]
        self._known: dict[int, Any] = {id(storage): None for storage in self._before}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._meet(leaf)
        self.multiply_adds += _multiply_adds(func, args, out)
        return out

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._part(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _part(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.now -= size


def _multiply_adds(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Multiply-adds of matrix products and attention; the rest of a transformer is small beside them."""
    name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else ""
    shapes = [tuple(each.shape) for each in args if isinstance(each, Tensor)]
    if name in {"mm", "bmm"} and len(shapes) >= 2:
        return math.prod(shapes[0]) * shapes[1][-1]
    if name in {"addmm", "baddbmm"} and len(shapes) >= 3:
        return math.prod(shapes[1]) * shapes[2][-1]
    if "attention" in name and len(shapes) >= 3 and len(shapes[0]) == 4:
        queries, keys = shapes[0], shapes[1]
        return 2 * math.prod(queries) * keys[-2]
    if "convolution" in name and isinstance(out, Tensor):
        return out.numel() * math.prod(shapes[1][1:])
    return 0


def existing_tensors(module: torch.nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    """What is alive before a call: weights, buffers and the inputs."""
    inputs = [each for each in tree_leaves(batch) if isinstance(each, Tensor)]
    return [*module.parameters(), *module.buffers(), *inputs]


def growth(small: float, large: float, factor: float) -> float:
    """Exponent p of cost ~ size**p, from costs at a size and at `factor` times that size."""
    if small <= 0 or large <= 0:
        return 0.0
    return math.log(large / small) / math.log(factor)
