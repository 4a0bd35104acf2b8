"""A model's configuration, whatever it is: an object with attributes, a dict, nested parts, or nothing.

Only attributes are read, by the words that model authors use; no architecture is known by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PARTS = (
    "text_config", "decoder", "decoder_config", "llm_config", "language_config", "language_model_config",
    "text_encoder", "thinker_config", "encoder", "encoder_config", "vision_config", "audio_config",
    "speech_config", "image_config", "backbone_config", "qformer_config", "video_config", "audio_encoder",
)  # fmt: skip


class ConfigView:
    """Read-only look-ups by any of several words, in this config and then in its parts."""

    def __init__(self, config: Any = None) -> None:
        if isinstance(config, ConfigView):
            config = config.raw
        if isinstance(config, Mapping) and "nodes" in config:
            from torchstone.adapt.config_file import flatten

            config = flatten(config).values
        self.raw: Any = config

    def __bool__(self) -> bool:
        return self.raw is not None

    def own(self, *names: str) -> Any:
        """The first of `names` that this config itself holds with a value, else None."""
        for name in names:
            value = self.raw.get(name) if isinstance(self.raw, Mapping) else getattr(self.raw, name, None)
            if value is not None and not callable(value):
                return value
        return None

    def get(self, *names: str, parts: tuple[str, ...] = ()) -> Any:
        """Own values first, then those of the parts (all known ones, or those named)."""
        value = self.own(*names)
        if value is not None:
            return value
        for part in self.parts(parts or _PARTS):
            value = part.get(*names)
            if value is not None:
                return value
        return None

    def number(self, *names: str, parts: tuple[str, ...] = ()) -> int | None:
        """A whole number under one of `names`."""
        value = self.get(*names, parts=parts)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def part(self, *names: str) -> ConfigView | None:
        return next(self.parts(names), None)

    def parts(self, names: tuple[str, ...] = _PARTS) -> Iterator[ConfigView]:
        for name in names:
            value = self.raw.get(name) if isinstance(self.raw, Mapping) else getattr(self.raw, name, None)
            if isinstance(value, Mapping) or hasattr(value, "__dict__"):
                yield ConfigView(value)


def config_of(module: Any, config: Any = None) -> ConfigView:
    """The config that was given, else the one that the module carries."""
    if config is not None and config != {}:
        return ConfigView(config)
    for name in ("config", "cfg", "args", "hparams"):
        carried = getattr(module, name, None)
        if isinstance(carried, Mapping) or (carried is not None and hasattr(carried, "__dict__")):
            return ConfigView(carried)
    return ConfigView()
