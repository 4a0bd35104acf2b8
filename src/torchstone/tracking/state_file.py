"""Nested state without pickles: its structure as JSON, its tensors apart, and back, bit for bit.

    structure, tensors = pack(optimizer.state_dict())
    unpack(structure, tensors)          # equal, with the same types

Lists, text, numbers, booleans, None and dictionaries with text keys are themselves in JSON. What JSON does
not know is an object whose key begins with a dollar sign:

    {"$tensor": name}                   and "dtype", "shape", "stride" where the file alone does not say
    {"$tuple": [...]}                   {"$dict": [[key, value], ...]}
    {"$bytes": base64}                  {"$float": the eight bytes, hexadecimal}: nan and infinities
    {"$int": hexadecimal}: beyond 63 bits
"""

from __future__ import annotations

import base64
import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchstone.tracking.tensor_file import DTYPES, NotStorable

_DEEPEST = 100


def pack(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """`value` as JSON and the tensors it names. `NotStorable` names the path of what cannot be kept.

    Memory that occurs twice is kept once. Tensors are the live ones, not copies.
    """
    tensors: dict[str, Tensor] = {}
    return _Packer(tensors).pack(value, ()), tensors


def unpack(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` was given."""
    if isinstance(structure, list):
        return [unpack(each, tensors) for each in structure]
    if not isinstance(structure, dict):
        return structure
    kind = next(iter(structure), "")
    if not kind.startswith("$"):
        return {key: unpack(each, tensors) for key, each in structure.items()}
    content = structure[kind]
    if kind == "$tensor":
        return _revive(tensors[content], structure)
    if kind == "$tuple":
        return tuple(unpack(each, tensors) for each in content)
    if kind == "$dict":
        return {unpack(key, tensors): unpack(each, tensors) for key, each in content}
    if kind == "$bytes":
        return base64.b64decode(content)
    if kind == "$float":
        return struct.unpack(">d", bytes.fromhex(content))[0]
    if kind == "$int":
        return int(content, 16)
    raise ValueError(f"unknown kind {kind!r}")


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested state with every tensor replaced; containers are new, other values are the same."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(each, change) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_tensors(each, change) for each in value)
    return value


class _Packer:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.names: dict[tuple[Any, ...], str] = {}

    def pack(self, value: Any, path: tuple[object, ...]) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            # Python refuses to read or print decimal numbers of some thousand digits.
            return value if abs(value) < 2**63 else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, Tensor):
            return self._pack_tensor(value, path)
        if len(path) >= _DEEPEST:
            raise NotStorable(
                "state is nested too deeply, or holds itself", where=_spelled(path[:8]) + " ..."
            )
        if kind is list:
            return [self.pack(each, (*path, number)) for number, each in enumerate(value)]
        if kind is tuple or kind is torch.Size:
            return {"$tuple": [self.pack(each, (*path, number)) for number, each in enumerate(value)]}
        if kind is dict or kind is OrderedDict:
            return self._pack_dict(value, path)
        raise NotStorable(
            f"a {kind.__module__}.{kind.__qualname__} cannot be stored in a checkpoint",
            where=_spelled(path),
            why="a checkpoint holds dict, list, tuple, str, bytes, int, float, bool, None and tensors",
            next="let state_dict() or get_extra_state() give plain values",
        )

    def _pack_dict(self, value: Mapping[Any, Any], path: tuple[object, ...]) -> Any:
        packed = {key: self.pack(each, (*path, key)) for key, each in value.items()}
        if all(type(key) is str and not key.startswith("$") for key in packed):
            return packed
        pairs = []
        for key, each in packed.items():
            if isinstance(key, Tensor):
                raise NotStorable("a tensor cannot be a key in a checkpoint", where=_spelled(path))
            pairs.append([self.pack(key, (*path, "key")), each])
        return {"$dict": pairs}

    def _pack_tensor(self, tensor: Tensor, path: tuple[object, ...]) -> dict[str, Any]:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise NotStorable("a tensor without plain values cannot be stored", where=_spelled(path))
        tensor = tensor.detach()
        described: dict[str, Any] = {"$tensor": self._name(tensor, path)}
        stride = torch.empty_like(tensor, device="meta").stride()  # of a tensor with gaps: the packed one
        if tensor.numel() and stride != torch.empty(tensor.shape, device="meta").stride():
            described["stride"] = list(stride)
        if tensor.dtype not in DTYPES:
            described |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        return described

    def _name(self, tensor: Tensor, path: tuple[object, ...]) -> str:
        place = memory_of(tensor)
        if place in self.names:
            return self.names[place]
        if tensor.dtype not in DTYPES:
            tensor = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        name = _spelled(path).encode("utf-8", "backslashreplace").decode("utf-8")
        while name in self.tensors or name == "__metadata__":  # {1: a, "1": b}
            name += "'"
        self.tensors[name] = tensor
        self.names[place] = name
        return name


def is_split(tensor: Tensor) -> bool:
    """Whether other processes hold parts of it (a DTensor)."""
    return hasattr(tensor, "device_mesh")


def memory_of(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same values in the same memory."""
    if not tensor.numel() or is_split(tensor):  # they have no address
        return (id(tensor),)
    return (
        tensor.data_ptr(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.device,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _revive(stored: Tensor, described: Mapping[str, Any]) -> Tensor:
    tensor = stored
    if "dtype" in described:
        tensor = tensor.clone().view(getattr(torch, described["dtype"])).reshape(described["shape"])
    if "stride" in described:
        tensor = torch.empty_strided(tensor.shape, described["stride"], dtype=tensor.dtype).copy_(tensor)
    return tensor


def _spelled(path: tuple[object, ...]) -> str:
    return ".".join(map(str, path)) or "state"
