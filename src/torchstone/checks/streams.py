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
        return main[:, : cut + self.offset]

    def future(self, main: Tensor, cut: int) -> Tensor:
        return main[:, cut + self.offset :]

    def view(self, cut: int) -> View:
        """The same cut for every tensor inside the model."""
        plain = past_view(cut, self.rows, self.length)
        if not self.offset:
            return plain
        longer = past_view(cut + self.offset, self.rows, self.length + self.offset)

        def either(tensor: Tensor, is_input: bool) -> list[Tensor]:
            has_longer = any(size == self.length + self.offset for size in tensor.shape)
            return longer(tensor, is_input) if has_longer else plain(tensor, is_input)

        return either


def read_stream(context: Context, probe: Probe, length: int, rows: int) -> Stream | str:
    """The stream of `length` positions, or the reason why the output does not show its positions."""
    batch = context.batch(rows, length=length)
    name = "decoder_input_ids" if has_decoder(context) else context.primary
    if has_decoder(context):
        source = context.batch(rows, length=min(_SOURCE_TOKENS, length))
        targets = other_values(context, torch.zeros(rows, length, dtype=torch.long, device=context.device), 5)
        batch = {**source, name: targets}
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


def has_decoder(context: Context) -> bool:
    """Whether the order of interest is that of a decoder with its own input."""
    plain = (
        "encoder",
        "classification",
        "token-classification",
        "question-answering",
        "masked-lm",
        "regression",
    )
    return bool(context.signature.has("decoder_ids")) and context.task.kind not in plain


def shown(output: Output) -> Tensor:
    """The tensor over positions, also where a loss stands beside it."""
    return (output.logits if output.logits is not None else output.main).detach()


def other_values(context: Context, values: Tensor, seed: int) -> Tensor:
    """Valid values of the same shape that differ from `values` everywhere, if the vocabulary allows.

    Placeholders (image tokens and the like) stay where they are.
    """
    generator = torch.Generator().manual_seed(context.seed * 7919 + seed)
    if values.is_floating_point():
        return torch.randn(values.shape, generator=generator).to(values)
    tokens = _plain_tokens(context, values, seed)
    index = torch.randint(len(tokens), values.shape, generator=generator).to(values.device)
    others = tokens[index]
    others = torch.where(others == values, tokens[(index + 1) % len(tokens)], others)
    reserved = torch.tensor(context.facts.reserved_ids, dtype=values.dtype, device=values.device)
    return torch.where(torch.isin(values, reserved), values, others)


def _plain_tokens(context: Context, values: Tensor, seed: int) -> Tensor:
    """Ids as the examples draw them, without those that mean something else than text."""
    drawn = context.batch(max(2, len(values)), length=max(16, values.shape[1]), seed=1000 + seed)
    name = "input_ids" if "input_ids" in drawn else "decoder_input_ids"
    facts = context.facts
    special = {*facts.reserved_ids, facts.pad_token_id, facts.eos_token_id} - {None}
    found = torch.unique(drawn[name]).to(values.device)
    plain = found[~torch.isin(found, torch.tensor(sorted(special), dtype=found.dtype, device=found.device))]
    return plain if len(plain) > 1 else found


def changed_from(values: Tensor, others: Tensor, cut: int, end: int | None = None) -> Tensor:
    """`values` with positions `cut:end` taken from `others`."""
    result = values.clone()
    result[:, cut:end] = others[:, cut:end]
    return result
