"""The adapted model as a graph: tensors in by natural names, the main tensor out, batch and length free.

    interface = interface_of(adapter)          # input_ids (batch, sequence), attention_mask, ... -> logits
    program = trace(Traceable(adapter, interface))

A builder's export and a stranger's odd argument names come out as everybody else's: the graph holds what
the adapter does. A size that the model fixes is an obstacle that is named, not an export that fails later.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchstone.export.formats import FormatFailed
from torchstone.export.obstacle import obstacle

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torchstone.adapt.adapter import Adapter

BATCH, SEQUENCE, TARGET = "batch", "sequence", "target_sequence"
_TRACED_BATCH, _TRACED_LENGTH, _TRACED_TARGET = 2, 7, 5
"""Sizes of the traced example: above 1 and unlike each other, so that no two axes are taken for one."""
_SEQUENCES = {
    "input_ids": SEQUENCE,
    "attention_mask": SEQUENCE,
    "inputs_embeds": SEQUENCE,
    "mm_token_type_ids": SEQUENCE,
    "decoder_input_ids": TARGET,
    "decoder_inputs_embeds": TARGET,
    "decoder_attention_mask": TARGET,
}


@dataclass(frozen=True)
class Axes:
    """One tensor of the interface: a name for each free axis, a number for each fixed one."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "axes": list(self.axes)}


@dataclass(frozen=True)
class Interface:
    """What goes into an exported model and what comes out."""

    inputs: tuple[Axes, ...]
    output: Axes
    max_length: int | None
    """Longest sequence, tokens; None: no limit is known."""
    fixed_length: int | None = None
    """The only length that the model takes."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.inputs)

    @property
    def has_mask(self) -> bool:
        return "attention_mask" in self.names

    def to_dict(self) -> dict[str, Any]:
        return {
            "inputs": [each.to_dict() for each in self.inputs],
            "output": self.output.to_dict(),
            "max_length": self.max_length,
            "fixed_length": self.fixed_length,
        }


def interface_of(adapter: Adapter) -> Interface:
    """Read from an example batch; one pass shows what comes out."""
    batch = example(adapter, _TRACED_BATCH, _TRACED_LENGTH, _TRACED_TARGET)
    fixed = adapter.facts.recipe.length
    inputs = tuple(_axes(name, value, free=fixed is None) for name, value in batch.items())
    with torch.no_grad():
        output = _evaluated(adapter)(**batch)
    main = output.main
    streams = {
        value.shape[1]: each.axes[1]
        for each, value in zip(inputs, batch.values(), strict=True)
        if len(each.axes) > 1
    }
    axes: list[str | int] = [BATCH, *main.shape[1:]]
    if main.dim() == 3 and isinstance(found := streams.get(main.shape[1]), str):
        axes[1] = found
    dtype = str(main.dtype).removeprefix("torch.")
    name = "logits" if output.logits is not None else "output"
    return Interface(inputs, Axes(name, dtype, tuple(axes)), adapter.facts.max_seq_len, fixed)


def example(
    adapter: Adapter, batch_size: int, length: int, target: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """A batch as the exported model takes it, masks included, every token real."""
    limit = adapter.facts.max_seq_len
    length = length if limit is None else min(length, limit)
    batch = adapter.examples.batch(batch_size, length=length, seed=seed)
    for name in ("decoder_input_ids", "decoder_inputs_embeds"):
        if target is not None and name in batch:
            # A view would keep the longer rows as its stride, and the trace would hold that number fast.
            batch[name] = batch[name][:, :target].contiguous()
    if "input_ids" in batch and adapter.signature.has("mask") and adapter.binding.takes("attention_mask"):
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    # A dictionary in a fixed order: the arguments of the graph have places.
    return {
        name: batch[name]
        for name in sorted(batch, key=lambda name: (name.startswith("decoder"), -ord(name[0])))
    }


class Traceable(nn.Module):
    """The adapter as a module of plain tensors, without caches and without labels."""

    def __init__(self, adapter: Adapter, interface: Interface) -> None:
        super().__init__()
        self.model = adapter.module
        self.interface = interface
        self._adapter = [adapter]  # in a list: it is no part of the module

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {"use_cache": False} if "use_cache" in self._adapter[0].signature else {}

    def forward(self, *tensors: Tensor) -> Tensor:
        batch = dict(zip(self.interface.names, tensors, strict=True))
        return self._adapter[0](**batch, **self._fixed).main


def trace(traceable: Traceable) -> ExportedProgram:
    """The graph with free axes; FormatFailed says what fixes one, or what cannot be traced."""
    adapter, interface = traceable._adapter[0], traceable.interface
    tensors = traced_example(adapter, interface)
    _evaluated(adapter)
    try:
        with torch.no_grad():
            program = torch.export.export(
                traceable.eval(), tensors, dynamic_shapes=(_free_axes(interface),), strict=False
            )
    except Exception as problem:  # torch raises dozens of kinds here, its own and those of the model's code
        raise FormatFailed(
            "torch.export cannot trace this model",
            where=f"{type(adapter.base).__name__}.{adapter.signature}",
            why=obstacle(problem, interface.names),
            next="torch.export.draft_export(module, inputs) lists every obstacle at once",
        ) from problem
    return program


def traced_example(adapter: Adapter, interface: Interface) -> tuple[Tensor, ...]:
    """The inputs that a trace is made with, in the order of the interface."""
    batch = example(adapter, _TRACED_BATCH, interface.fixed_length or _TRACED_LENGTH, _TRACED_TARGET, seed=1)
    return tuple(batch[name] for name in interface.names)


def _free_axes(interface: Interface) -> tuple[dict[int, Any], ...]:
    limits = {BATCH: None, SEQUENCE: interface.max_length, TARGET: interface.max_length}
    dims = {name: torch.export.Dim(name, min=1, max=limit) for name, limit in limits.items()}
    return tuple(
        {place: dims[axis] for place, axis in enumerate(each.axes) if isinstance(axis, str)}
        for each in interface.inputs
    )


def _axes(name: str, value: Tensor, *, free: bool) -> Axes:
    axes: list[str | int] = [BATCH, *value.shape[1:]]
    if free and name in _SEQUENCES:
        axes[1] = _SEQUENCES[name]
    return Axes(name, str(value.dtype).removeprefix("torch."), tuple(axes))


def _evaluated(adapter: Adapter) -> Adapter:
    adapter.module.eval()
    return adapter
