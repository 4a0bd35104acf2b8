"""One typed description per knob, and what is made of it: layers, Kconfig menus, files, docs."""

from __future__ import annotations

from torchstone._lazy import lazily

_HOMES = {
    "Section": "torchstone.config.schema",
    "knob": "torchstone.config.schema",
    "Resolved": "torchstone.config.resolved",
    "Value": "torchstone.config.resolved",
    "differences": "torchstone.config.resolved",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
