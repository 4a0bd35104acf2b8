"""How a model comes in: find it, isolate it, read its `forward`, make it `Batch -> Output`.

The room itself can be called: `torchstone.adapt(module)` is `torchstone.adapt.adapter.adapt(module)`,
and `torchstone.adapt.target` stays an ordinary import path. No torch is imported here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchstone._lazy import lazily

if TYPE_CHECKING:
    from torchstone.adapt.adapter import Adapter

_HOMES = {
    "Adapter": "torchstone.adapt.adapter",
    "Capabilities": "torchstone.adapt.capability",
    "Examples": "torchstone.adapt.examples",
    "IsolatedResult": "torchstone.adapt.isolate",
    "Limits": "torchstone.adapt.isolate",
    "LoadedModel": "torchstone.adapt.load",
    "ModelFacts": "torchstone.adapt.facts",
    "Output": "torchstone.adapt.output",
    "Signature": "torchstone.adapt.signature",
    "Target": "torchstone.adapt.target",
    "parse_target": "torchstone.adapt.target",
    "read_capabilities": "torchstone.adapt.capability",
    "read_facts": "torchstone.adapt.facts",
    "read_output": "torchstone.adapt.output",
    "read_signature": "torchstone.adapt.signature",
    "run_isolated": "torchstone.adapt.isolate",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = lazily(__name__, _HOMES)


class _Room(ModuleType):
    """A package that can be called; a module looks up `__call__` on its class, not on itself."""

    def __call__(self, module: Any, config: Any = None, task: Any = None) -> Adapter:
        from torchstone.adapt.adapter import adapt

        return adapt(module, config=config, task=task)


sys.modules[__name__].__class__ = _Room
