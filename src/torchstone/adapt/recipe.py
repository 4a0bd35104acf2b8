"""How example inputs of one model look where its signature leaves it open: sizes, ranks, placeholder tokens.

`recipes(signature, facts)` gives the documented alternatives in the order in which they are tried; the first
that the model accepts is kept in its facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchstone.adapt.facts import ModelFacts
    from torchstone.adapt.signature import Signature


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Choices that make a batch. The defaults suit a model that takes ids."""

    length: int | None = None
    """The only length that the model takes, tokens; None where any will do."""
    eos_last: bool = False
    """Each row ends with the end-of-sequence id."""
    pixels: str | None = None
    """"image" (B,C,H,W), "video" (B,F,C,H,W), "images" (B,1,C,H,W) or "patches" with a grid."""
    image_size: tuple[int, int] = (32, 32)
    image_tokens: int = 0
    """Placeholder ids per row that stand for the image."""
    frames: int = 4
    audio: str | None = None
    """"wave" (B,S), "wave-channel" (B,1,S), "mels-first" (B,F,T), "mels-last" (B,T,F) or
    "mels-image" (B,1,T,F)."""
    audio_length: int = 1600
    """Samples, or frames of a spectrogram."""
    extras: tuple[str, ...] = ()
    """Natural names of further inputs."""

    def __str__(self) -> str:
        changed = {
            name: value
            for name, value in vars(self).items()
            if value != getattr(Recipe, name) and value is not None
        }
        return ", ".join(f"{name}={value}" for name, value in changed.items()) or "plain"


def recipes(signature: Signature, facts: ModelFacts) -> Iterator[Recipe]:
    """Alternatives, the likeliest first."""
    base = Recipe(image_size=facts.image_size or (32, 32), frames=facts.num_frames or 4)
    if signature.has("grid") and not signature.has("ids"):
        yield replace(base, pixels="patches")
    if signature.has("pixels") and signature.has("ids"):
        yield from _with_text(base, signature, facts)
    elif signature.has("pixels"):
        yield from _images(base, facts)
    elif signature.has("audio"):
        yield from _sounds(base, signature, facts)
    yield base
    if signature.has("ids"):
        yield replace(base, eos_last=True)
        for length in facts.length_candidates:
            yield replace(base, length=length)
    if signature.has("audio") and signature.has("ids"):
        yield from _sounds(base, signature, facts)


def _images(base: Recipe, facts: ModelFacts) -> Iterator[Recipe]:
    sizes = [facts.image_size] if facts.image_size else []
    sizes += [(side, side) for side in (32, 64, 28, 224, 96, 128, 16, 256, 384)]
    first = "video" if facts.num_frames else "image"
    for size in sizes[:1]:
        for form in (first, "image", "video", "images"):
            yield replace(base, pixels=form, image_size=size)
    for size in sizes[1:]:
        yield replace(base, pixels=first, image_size=size)


def _with_text(base: Recipe, signature: Signature, facts: ModelFacts) -> Iterator[Recipe]:
    if signature.has("grid"):
        yield replace(base, pixels="patches")
    counts = list(dict.fromkeys(facts.image_token_counts)) if facts.image_token_id is not None else [0]
    for form in ("image", "images"):
        for count in counts or [1]:
            yield replace(base, pixels=form, image_tokens=count)
    yield replace(base, pixels="image", eos_last=True)


def _sounds(base: Recipe, signature: Signature, facts: ModelFacts) -> Iterator[Recipe]:
    mels = facts.num_mel_bins is not None
    # Few frames first: a model of a fixed number refuses others at once.
    frames = [100, 200, *([facts.audio_frames] if facts.audio_frames else []), 64, 1024, 3000]
    waves = [1600, 16000, 4000, 400, 48000]
    if signature.of_role("audio")[0].name in ("input_features", "mels", "mel", "spectrogram") or mels:
        for count in frames:
            for form in ("mels-first", "mels-last", "mels-image"):
                yield replace(base, audio=form, audio_length=count)
    for count in waves:
        for form in ("wave", "wave-channel"):
            yield replace(base, audio=form, audio_length=count)
