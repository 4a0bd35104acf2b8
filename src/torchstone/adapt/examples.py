"""Example inputs for a model, in natural names: what it consumes, nothing else.

`Examples(signature, facts, task).batch(2, length=16, seed=0)` draws ids uniformly from the vocabulary
(no padding, no placeholder ids), pixels and audio from a normal distribution. The same arguments give the
same values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchstone.adapt.facts import ModelFacts
from torchstone.adapt.signature import Signature

DEFAULT_LENGTH = 16
_SMALL_VOCABULARY = 16
"""Ids are drawn below this while the vocabulary is unknown."""


@dataclass(frozen=True)
class Examples:
    """Draws batches for one model."""

    signature: Signature
    facts: ModelFacts
    task: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def primary(self) -> str:
        """Natural name of the main input."""
        for role in ("ids", "pixels", "audio", "embeddings"):
            wanted = [each for each in self.signature.of_role(role) if each.required]
            if wanted:
                return wanted[0].natural
        for role in ("ids", "pixels", "audio", "embeddings"):
            for each in self.signature.of_role(role):
                return each.natural
        return "input_ids"

    def batch(self, batch_size: int, length: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """One batch of `batch_size` rows of `length` tokens."""
        generator = torch.Generator().manual_seed(seed)
        length = self._length(length)
        batch: dict[str, Tensor] = {}
        if self.primary == "input_ids":
            batch["input_ids"] = self._ids(batch_size, length, generator)
        elif self.primary == "pixel_values":
            height, width = self.facts.image_size or (32, 32)
            batch["pixel_values"] = torch.randn(
                batch_size, self.facts.num_channels or 3, height, width, generator=generator
            )
        elif self.primary == "inputs_embeds":
            batch["inputs_embeds"] = torch.randn(
                batch_size, length, self.facts.d_model or 8, generator=generator
            )
        if self.signature.has("decoder_ids"):
            batch["decoder_input_ids"] = self._ids(batch_size, length, generator)
        return {name: value.to(self.device) for name, value in batch.items()}

    def _length(self, length: int | None) -> int:
        if length is not None:
            return length
        limit = self.facts.max_seq_len
        return DEFAULT_LENGTH if limit is None else min(DEFAULT_LENGTH, limit)

    def _ids(self, batch_size: int, length: int, generator: torch.Generator) -> Tensor:
        size = self.facts.vocab_size or _SMALL_VOCABULARY
        avoid = {
            *self.facts.reserved_ids,
            *(() if self.facts.pad_token_id is None else (self.facts.pad_token_id,)),
        }
        allowed = torch.tensor([each for each in range(min(size, 1 << 20)) if each not in avoid] or [0])
        return allowed[torch.randint(len(allowed), (batch_size, length), generator=generator)]
