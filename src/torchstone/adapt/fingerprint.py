"""What a model is, in one hash: its code, its configuration, and the shapes it was built with.

Not the weights: two seeds of one architecture have one fingerprint. Not the place either: neither paths
nor the names that torchstone gives to loaded modules enter.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def fingerprint(
    module: nn.Module, config: Mapping[str, Any] | None = None, sources: Mapping[str, bytes] | None = None
) -> str:
    """SHA-256 over code, config and shapes; without `sources` the code of the module's classes is read."""
    digest = hashlib.sha256()
    for name, content in sorted((sources or _class_sources(module)).items()):
        _feed(digest, "source", name, hashlib.sha256(content).hexdigest())
    _feed(digest, "config", json.dumps(dict(config or {}), sort_keys=True, default=_describe))
    for name, tensor in sorted(_tensors(module)):
        _feed(digest, "tensor", name, str(tuple(tensor.shape)), str(tensor.dtype))
    for name, part in module.named_modules():
        _feed(digest, "module", name, type(part).__qualname__, part.extra_repr())
    return digest.hexdigest()


def _feed(digest: Any, *words: str) -> None:
    for word in words:
        data = word.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)


def _tensors(module: nn.Module) -> list[tuple[str, Any]]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return [*parameters.items(), *module.named_buffers(remove_duplicate=False)]


def _class_sources(module: nn.Module) -> dict[str, bytes]:
    """Source text of each distinct class outside torch; a class without source counts by its name."""
    sources: dict[str, bytes] = {}
    for kind in {type(part) for part in module.modules()}:
        if kind.__module__.split(".")[0] == "torch":
            continue
        found: Any = kind  # mypy asks whether its instances can be hashed
        sources[kind.__qualname__] = _source(found)
    return sources


@functools.lru_cache(maxsize=256)
def _source(kind: Any) -> bytes:
    """Kept, for finding a class in its file means parsing that file."""
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):
        return b""


def _describe(value: Any) -> str:
    # The repr of a plain object holds its address, which differs in every process.
    return type(value).__qualname__ if " at 0x" in repr(value) else repr(value)
