"""Example inputs for a model, in natural names: what it consumes, nothing else.

`Examples(signature, facts, task).batch(2, length=16, seed=0)` draws ids uniformly from the vocabulary
(no padding, no placeholder ids), pixels and audio from a normal distribution. The same arguments give the
same values. What a signature leaves open (ranks, sizes, placeholders) was settled by the facts' recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from torchstone.adapt.facts import ModelFacts
from torchstone.adapt.recipe import Recipe
from torchstone.adapt.signature import MAIN_ROLES, Argument, Signature

DEFAULT_LENGTH = 16
_SMALL_VOCABULARY = 2
"""Ids are drawn below this while the vocabulary is unknown."""


@dataclass(frozen=True)
class Examples:
    """Draws batches for one model."""

    signature: Signature
    facts: ModelFacts
    task: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def recipe(self) -> Recipe:
        return self.facts.recipe

    @cached_property
    def primary(self) -> str:
        """Natural name of the main input."""
        return primary_input(self.signature, self.facts.main_input)

    def batch(self, batch_size: int, length: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """One batch of `batch_size` rows of `length` tokens."""
        generator = torch.Generator().manual_seed(seed)
        length = self._length(length)
        batch: dict[str, Tensor] = {}
        for argument in self._wanted():
            batch[argument.natural] = self._values(argument, batch_size, length, generator)
        if self.recipe.pixels == "patches":
            for grid in self.signature.of_role("grid")[:1]:
                batch[grid.name] = torch.tensor([self.facts.patch_grid] * batch_size)
        if (
            "mm_token_type_ids" in self.signature
            and self.recipe.pixels
            and self.facts.image_token_id is not None
        ):
            # 0 is text, 1 stands for an image.
            batch["mm_token_type_ids"] = (batch["input_ids"] == self.facts.image_token_id).long()
        return {name: value.to(self.device) for name, value in batch.items()}

    def _wanted(self) -> list[Argument]:
        """The arguments that a batch fills: main inputs, and others that are required."""
        chosen: dict[str, Argument] = {}
        for each in self.signature.arguments:
            natural = each.natural
            main = each.role in MAIN_ROLES and (each.required or natural == self.primary)
            second = each.role == "pixels" and natural == "pixel_values" and self.recipe.pixels is not None
            text = each.role == "ids" and natural == "input_ids"
            heard = each.role == "audio" and self.recipe.audio is not None and natural == self._audio_name()
            decoder = each.role == "decoder_ids" and natural == "decoder_input_ids"
            if main or second or text or heard or decoder or natural in self.recipe.extras:
                chosen.setdefault(natural, each)
        return list(chosen.values())

    def _audio_name(self) -> str:
        return self.signature.of_role("audio")[0].natural

    def _values(self, argument: Argument, batch_size: int, length: int, generator: Generator) -> Tensor:
        if argument.role in ("ids", "decoder_ids"):
            return self._ids(batch_size, length, generator, decoder=argument.role == "decoder_ids")
        if argument.role == "pixels" or (argument.role == "embeddings" and self.recipe.pixels == "patches"):
            return self._pixels(batch_size, generator)
        if argument.role == "audio":
            return self._audio(batch_size, generator)
        return torch.randn(batch_size, length, self.facts.d_model or 8, generator=generator)

    def _length(self, length: int | None) -> int:
        if self.recipe.length is not None:
            return self.recipe.length
        if length is not None:
            return length
        limit = self.facts.max_seq_len
        return DEFAULT_LENGTH if limit is None else min(DEFAULT_LENGTH, limit)

    @cached_property
    def _allowed(self) -> Tensor:
        return self._ids_below(self.facts.vocab_size or _SMALL_VOCABULARY)

    @cached_property
    def _allowed_in_decoder(self) -> Tensor:
        size = self.facts.decoder_vocab_size
        return self._allowed if size is None else self._ids_below(size)

    def _ids_below(self, size: int) -> Tensor:
        facts = self.facts
        keep = torch.ones(size, dtype=torch.bool)
        avoid = [*facts.reserved_ids, *([] if facts.pad_token_id is None else [facts.pad_token_id])]
        if self.recipe.eos_last and facts.eos_token_id is not None:
            avoid.append(facts.eos_token_id)
        keep[[each for each in avoid if each < size]] = False
        return keep.nonzero()[:, 0] if bool(keep.any()) else torch.arange(size)

    def _ids(self, batch_size: int, length: int, generator: Generator, decoder: bool) -> Tensor:
        recipe, allowed = self.recipe, self._allowed_in_decoder if decoder else self._allowed
        ids = allowed[torch.randint(len(allowed), (batch_size, length), generator=generator)]
        if recipe.eos_last and self.facts.eos_token_id is not None:
            ids[:, -1] = self.facts.eos_token_id
        count = self.facts.patch_tokens if recipe.pixels == "patches" else recipe.image_tokens
        if count and self.facts.image_token_id is not None and not decoder:
            # The row keeps its length where image and some text fit into it.
            image = torch.full((batch_size, count), self.facts.image_token_id)
            text = ids[:, : max(length - count, min(length, 2))]
            ids = torch.cat([text[:, :1], image, text[:, 1:]], dim=1)
        return ids

    def _pixels(self, batch_size: int, generator: Generator) -> Tensor:
        channels, (height, width) = self.facts.num_channels or 3, self.recipe.image_size
        if self.recipe.pixels == "patches":
            rows = batch_size * self.facts.patches_per_image
            return torch.randn(rows, self.facts.patch_width, generator=generator)
        shape: tuple[int, ...] = (batch_size, channels, height, width)
        if self.recipe.pixels == "video":
            shape = (batch_size, self.recipe.frames, channels, height, width)
        elif self.recipe.pixels == "images":
            shape = (batch_size, 1, channels, height, width)
        return torch.randn(shape, generator=generator)

    def _audio(self, batch_size: int, generator: Generator) -> Tensor:
        count, mels = self.recipe.audio_length, self.facts.num_mel_bins or 80
        shape: tuple[int, ...] = {
            "mels-first": (batch_size, mels, count),
            "mels-last": (batch_size, count, mels),
            "mels-image": (batch_size, 1, count, mels),
            "wave-channel": (batch_size, 1, count),
        }.get(self.recipe.audio or "", (batch_size, count))
        return torch.randn(shape, generator=generator)


def primary_input(signature: Signature, declared: str | None = None) -> str:
    """A required main input; else the one that the model declares; else ids, pixels, audio, vectors."""
    for role in MAIN_ROLES:
        wanted = [each for each in signature.of_role(role) if each.required]
        if wanted:
            return wanted[0].natural
    if declared is not None and declared in signature and signature[declared].role in MAIN_ROLES:
        return signature[declared].natural
    for role in ("ids", "pixels", "audio", "embeddings"):
        for each in signature.of_role(role):
            return each.natural
    return "input_ids"
