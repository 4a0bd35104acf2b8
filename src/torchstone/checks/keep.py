"""The model comes back as it was: values, gradients, modes, hooks and plain attributes.

`Kept` remembers a module once; `restore` puts everything back, whatever a check did. It does not copy the
module: what is proved is the user's own object, with its closures, hooks and ties.
"""

from __future__ import annotations

import enum
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_MAX_DEPTH = 5


class Kept:
    """A memory of `module` and of everything that hangs on it."""

    def __init__(self, module: nn.Module, parameters: bool = True) -> None:
        """`parameters=False`: only what a forward pass may change, buffers and attributes."""
        self._with_parameters = parameters
        self._holders: list[tuple[str, Any, dict[str, Any]]] = []
        self._containers: list[tuple[str, Any, list[Any]]] = []
        self._tensors: list[tuple[str, Tensor, Tensor, Tensor | None, bool]] = []
        self._seen: set[int] = set()
        self._registered = {id(each) for each in module.modules()}
        for name, each in module.named_modules():
            self._hold(name, each, 0)

    @classmethod
    def inside(cls, value: Any) -> list[Tensor]:
        """Every tensor that hangs on any object, such as a cache."""
        kept = cls(nn.Module())
        kept._tensors.clear()
        kept._keep("", value, 0)
        return kept.tensors()

    def restore(self) -> None:
        """Put everything back. Values are written only where they differ."""
        for _, holder, attributes in self._holders:
            if not self._with_parameters and "training" in attributes:
                attributes = {**attributes, "training": holder.training}
            now = list(vars(holder).items())
            if len(now) != len(attributes) or not all(map(_identical, now, attributes.items())):
                vars(holder).clear()
                vars(holder).update(attributes)
        for _, container, content in self._containers:
            _refill(container, content)
        for _, tensor, value, gradient, requires_grad in self._tensors:
            _put_back(tensor, value)
            if tensor.is_leaf:
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
                if tensor.grad is not gradient:
                    tensor.grad = gradient

    def drop_gradients(self) -> None:
        """Detach the user's gradients, so that no backward pass adds to them; `restore` brings them back."""
        for _, tensor, _, gradient, _ in self._tensors:
            if gradient is not None:
                tensor.grad = None

    def tensors(self) -> list[Tensor]:
        """Every tensor that hangs on the module."""
        return [tensor for _, tensor, _, _, _ in self._tensors]

    def changed(self) -> list[str]:
        """Dotted names of what differs now: attributes, contents of containers, values of tensors."""
        names = [
            f"{path}.{name}".lstrip(".")
            for path, holder, attributes in self._holders
            for name in sorted({*attributes, *vars(holder)} - {"training"})
            if not _same(vars(holder).get(name, _ABSENT), attributes.get(name, _ABSENT))
        ]
        names += [
            path
            for path, container, content in self._containers
            if len(container) != len(content)
            or not all(_same(now, then) for now, then in zip(_content(container), content, strict=True))
        ]
        names += [path for path, tensor, value, _, _ in self._tensors if not _equal(tensor, value)]
        return list(dict.fromkeys(names))

    def _keep(self, path: str, value: Any, depth: int) -> None:
        if id(value) in self._seen or depth > _MAX_DEPTH:
            return
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter) and not self._with_parameters:
                return
            self._seen.add(id(value))
            gradient = value.grad if value.is_leaf else None
            self._tensors.append((path, value, value.detach().clone(), gradient, value.requires_grad))
        elif type(value) in _CONTAINERS:
            self._seen.add(id(value))
            self._containers.append((path, value, _content(value)))
            for name, each in value.items() if isinstance(value, dict) else enumerate(value):
                self._keep(_join(path, name), each, depth + 1)
        elif isinstance(value, tuple):
            for place, each in enumerate(value):
                self._keep(_join(path, place), each, depth + 1)
        elif _has_state(value) and id(value) not in self._registered:
            # A module in a plain list starts anew: it is as deep as any other.
            self._hold(path, value, 0 if isinstance(value, nn.Module) else depth)

    def _hold(self, path: str, holder: Any, depth: int) -> None:
        self._seen.add(id(holder))
        self._holders.append((path, holder, dict(vars(holder))))
        for name, each in list(vars(holder).items()):
            self._keep(_join(path, name), each, depth + 1)


_ABSENT = object()
_REGISTERED = ("_parameters", "_buffers", "_modules")


def _join(path: str, name: object) -> str:
    if name in _REGISTERED:
        return path
    return f"{path}.{name}".lstrip(".")


def _has_state(value: Any) -> bool:
    """Objects with attributes that a forward pass may change; no classes, functions, standard library."""
    if isinstance(value, (type, FunctionType, MethodType, ModuleType, enum.Enum)):
        return False
    home = type(value).__module__.split(".")[0]
    return hasattr(value, "__dict__") and home not in sys.stdlib_module_names


def _content(container: Any) -> list[Any]:
    return list(container.items()) if isinstance(container, dict) else list(container)


def _refill(container: Any, content: list[Any]) -> None:
    now = _content(container)
    if len(now) == len(content) and all(_identical(a, b) for a, b in zip(now, content, strict=True)):
        return
    container.clear()
    if isinstance(container, (dict, set)):
        container.update(content)
    else:
        container.extend(content)


def _identical(now: Any, then: Any) -> bool:
    if isinstance(now, tuple) and isinstance(then, tuple) and len(now) == len(then):
        return all(a is b for a, b in zip(now, then, strict=True))
    return now is then


def _same(now: Any, then: Any) -> bool:
    if now is then:
        return True
    if isinstance(now, Tensor) or isinstance(then, Tensor):
        return isinstance(now, Tensor) and isinstance(then, Tensor) and _equal(now, then)
    if isinstance(now, tuple) and isinstance(then, tuple):
        return len(now) == len(then) and all(_same(a, b) for a, b in zip(now, then, strict=True))
    if isinstance(now, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return type(now) is type(then) and bool(now == then)
    return False


def _equal(now: Tensor, then: Tensor) -> bool:
    if now.shape != then.shape or now.dtype != then.dtype or now.device != then.device:
        return False
    if now.is_meta:
        return True
    with torch.no_grad():
        # Bytes, so that NaN equals NaN and 0.0 differs from -0.0.
        return bool(torch.equal(now, then)) or _bytes_equal(now.detach(), then)


def _bytes_equal(now: Tensor, then: Tensor) -> bool:
    if not now.is_floating_point() or not bool(torch.isnan(now).any()):
        return False
    return (
        bool(torch.equal(now.contiguous().view(torch.uint8), then.contiguous().view(torch.uint8)))
        if now.dim()
        else True
    )


def _put_back(tensor: Tensor, value: Tensor) -> None:
    if _equal(tensor, value):
        return
    with torch.no_grad():
        if tensor.shape == value.shape and tensor.dtype == value.dtype and tensor.device == value.device:
            tensor.copy_(value)
        else:
            tensor.data = value.clone()


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts and records, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += tensors_of(value.values())
        elif isinstance(value, (tuple, list)):
            found += tensors_of(value)
        elif hasattr(value, "__dataclass_fields__"):
            found += tensors_of(vars(value).values())
    return found
