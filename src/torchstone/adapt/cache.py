"""Where a model takes its decoding cache, and where it gives it back."""

from __future__ import annotations

from typing import Any

from torchstone.adapt.output import Output
from torchstone.adapt.signature import Signature

_NO_CACHES = ("use_cache", "cache_position", "use_mems", "encoder_outputs")
"""Arguments about caching that hold none themselves."""


def cache_argument(signature: Signature) -> str | None:
    """The argument that takes back what an earlier pass left."""
    names = [each.name for each in signature.of_role("cache")]
    return next((name for name in names if name not in _NO_CACHES), None)


def asking(signature: Signature) -> dict[str, bool]:
    """What asks for a cache, where that is an argument."""
    return {"use_cache": True} if "use_cache" in signature else {}


def cache_of(output: Output, name: str) -> Any:
    """The cache that a pass gave, under the name it goes back in by; None if it gave none."""
    raw = output.raw
    found = raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)
    return found if found is not None else output.past_key_values
