"""What hangs on a model without being registered: it is neither trained, nor moved, nor saved with it.

Walks attributes, lists, dicts, plain objects and closures. Whether a find matters to the output is asked by
the checks.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_BASE = frozenset(vars(nn.Module()))
_DEPTH = 4
_FOREIGN = ("torch.", "builtins", "numpy", "functools", "logging", "threading", "enum")


@dataclass(frozen=True)
class Outsider:
    """One find: `kind` is module, parameter, tensor or buffer (registered, but left out of the state)."""

    kind: str
    path: str
    holder: str
    """Dotted name of the registered module that holds it."""
    value: Any

    def tensors(self) -> list[Tensor]:
        """Floating values inside."""
        if isinstance(self.value, nn.Module):
            inside = [*self.value.parameters(), *self.value.buffers()]
        else:
            inside = [self.value]
        return [each for each in inside if each.is_floating_point() and each.numel()]


def outsiders(module: nn.Module) -> list[Outsider]:
    """All finds, each object once."""
    return list(_Walk(module).finds())


class _Walk:
    def __init__(self, module: nn.Module) -> None:
        self.module = module
        registered = [*module.parameters(), *module.buffers()]
        self.seen: set[int] = {id(each) for each in module.modules()}
        self.storages = {each.untyped_storage()._cdata for each in registered}

    def finds(self) -> Iterator[Outsider]:
        for path, holder in self.module.named_modules():
            for name in holder._non_persistent_buffers_set:
                buffer = holder._buffers.get(name)
                if buffer is not None:
                    yield Outsider("buffer", _join(path, name), path, buffer)
        for path, holder in self.module.named_modules():
            for name, value in list(vars(holder).items()):
                if name not in _BASE:
                    yield from self.descend(value, _join(path, name), path, 0)

    def descend(self, value: Any, path: str, holder: str, depth: int) -> Iterator[Outsider]:
        if (
            depth > _DEPTH
            or value is None
            or isinstance(value, (str, bytes, int, float, type, types.ModuleType))
        ):
            return
        if id(value) in self.seen:
            return
        if isinstance(value, Tensor):
            if value.untyped_storage()._cdata not in self.storages:
                self.seen.add(id(value))
                learned = isinstance(value, nn.Parameter) or (value.requires_grad and value.is_leaf)
                yield Outsider("parameter" if learned else "tensor", path, holder, value)
            return
        self.seen.add(id(value))
        if isinstance(value, nn.Module):
            if any(True for _ in value.parameters()) or any(True for _ in value.buffers()):
                yield Outsider("module", path, holder, value)
            return
        for name, part in _parts(value):
            yield from self.descend(part, f"{path}{name}", holder, depth + 1)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What is inside one object, with the way to write it."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", each) for key, each in value.items()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [(f"[{place}]", each) for place, each in enumerate(value)]
    if isinstance(value, functools.partial):
        return [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        return [(f".<{name}>", _cell(cell)) for name, cell in cells]
    if isinstance(value, types.MethodType):
        return [(".__self__", value.__self__)]
    home = type(value).__module__
    if home == "torch" or home.startswith(_FOREIGN) or not hasattr(value, "__dict__"):
        return []
    return [(f".{name}", each) for name, each in vars(value).items()]


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
