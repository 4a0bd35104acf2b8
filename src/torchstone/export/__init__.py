"""A model leaves the house: formats, the proof that each still is the model, the bundle that carries both.

Start at `bundle.py`: `export` reads as a recipe. No torch is imported here.
"""

from __future__ import annotations

from torchstone._lazy import lazily

_HOMES = {
    "Bundle": "torchstone.export.bundle",
    "FORMATS": "torchstone.export.formats",
    "Format": "torchstone.export.formats",
    "Source": "torchstone.export.source",
    "export": "torchstone.export.bundle",
    "verify_bundle": "torchstone.export.verify",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = lazily(__name__, _HOMES)
