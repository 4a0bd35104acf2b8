"""The sequence that a leak check disturbs, and where its positions show in the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone.checks.bisect import View, past_view

if TYPE_CHECKING:
    from torchstone.adapt.output import Output
    from torchstone.checks.context import Batch, Context
    from torchstone.checks.probe import Probe

_SOURCE_TOKENS = 13
"""Length of the encoder's input beside a decoder stream; unlike the decoder's, to tell their axes apart."""


@dataclass(frozen=True)
class Stream:
    """A batch, the entry of it that carries the order, and where that order shows in the output."""

    batch: Batch
    name: str
    """Natural name of the entry: `input_ids`, `decoder_input_ids` or `inputs_embeds`."""
    start: int = 0
    """First position that counts; above zero when a mask hides padding on the left."""
    offset: int = 0
    """Output position minus input position; above zero when the model puts tokens of its own in front."""

    @property
    def values(self) -> Tensor:
        values: Tensor = self.batch[self.name]
        return values

    @property
    def rows(self) -> int:
        return self.values.shape[0]

    @property
    def length(self) -> int:
        return self.values.shape[1]

    def replaced(self, values: Tensor) -> Batch:
        return {**self.batch, self.name: values}

    def with_entries(self, **entries: Tensor) -> Stream:
        return replace(self, batch={**self.batch, **entries})

    def past(self, main: Tensor, cut: int) -> Tensor:
        """Outputs that must not know positions from `cut` on."""
        return main[:, self.start + self.offset if self.start else 0 : cut + self.offset]

    def future(self, main: Tensor, cut: int) -> Tensor:
        return main[:, cut + self.offset :]

    def view(self, cut: int) -> View:
        """The same cut for every tensor inside the model."""
        plain = past_view(cut, self.rows, self.length, self.start)
        if not self.offset:
            return plain
        longer = past_view(
            cut + self.offset,
            self.rows,
            self.length + self.offset,
            self.start + self.offset if self.start else 0,
        )

        def either(tensor: Tensor, is_input: bool) -> list[Tensor]:
            has_longer = any(size == self.length + self.offset for size in tensor.shape)
            return longer(tensor, is_input) if has_longer else plain(tensor, is_input)

        return either


def read_stream(context: Context, probe: Probe, length: int, rows: int) -> Stream | str:
    """The stream of `length` positions, or the reason why the output does not show its positions."""
    decoder = context.signature.has("decoder_ids")
    name = "decoder_input_ids" if decoder else context.primary
    batch = context.batch(rows, length=length)
    if decoder:
        source = context.batch(rows, length=min(_SOURCE_TOKENS, length))
        batch = {**source, name: batch[name]} if name in batch else source
    if name not in batch or batch[name].dim() < 2:
        return f"there is no token axis in {name}"
    stream = Stream(batch, name)
    main = probe.run(batch).main
    if main.dim() >= 2 and main.shape[1] == 1 < stream.length and context.signature.has("labels"):
        # Some models show all positions only while they are taught.
        stream = stream.with_entries(labels=batch[name].clone())
        main = shown(probe.run(stream.batch))
    if main.dim() < 3:
        return "the output has no token axis"
    if main.shape[1] < batch[name].shape[1]:
        return f"the output has {main.shape[1]} positions for {batch[name].shape[1]} tokens"
    return replace(stream, offset=main.shape[1] - batch[name].shape[1])


def shown(output: Output) -> Tensor:
    """The tensor over positions, also where a loss stands beside it."""
    return (output.logits if output.logits is not None else output.main).detach()


def other_values(context: Context, values: Tensor, seed: int) -> Tensor:
    """Valid values of the same shape that differ from `values` everywhere, if the vocabulary allows."""
    rows, length = values.shape[:2]
    if values.is_floating_point():
        generator = torch.Generator().manual_seed(context.seed * 7919 + seed)
        noise = torch.randn(values.shape, generator=generator)
        return noise.to(values)
    pool = context.batch(rows, length=length, seed=1000 + seed)[context.primary].to(values.device)
    for turn in range(1, 6):
        pool = torch.where(pool == values, pool.roll(turn, dims=1), pool)
    return torch.where(pool == values, pool.flatten().roll(1).reshape(pool.shape), pool)


def changed_from(values: Tensor, others: Tensor, cut: int, end: int | None = None) -> Tensor:
    """`values` with positions `cut:end` taken from `others`."""
    result = values.clone()
    result[:, cut:end] = others[:, cut:end]
    return result
