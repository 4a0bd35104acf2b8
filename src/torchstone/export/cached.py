"""A causal model that decodes with its cache: two graphs, the prompt's and the next token's.

    prefill   input_ids (batch, sequence)                     -> logits, the cache as a list of tensors
    decode    input_ids (batch, 1), the cache (batch, past)   -> logits of the new token, the longer cache

Two, because most models take another way where there is no past. Rows of a batch have one length: without
padding no mask is needed, and positions follow from the length of the past. The proof splits each golden
input into a prompt and single tokens and must give the same logits as the pass without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchstone.adapt.cache import asking, cache_argument, cache_of
from torchstone.export import onnx, pt2
from torchstone.export.formats import FormatFailed
from torchstone.export.obstacle import obstacle
from torchstone.export.program import BATCH, SEQUENCE, Axes, Interface, example

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torchstone.adapt.adapter import Adapter
    from torchstone.export.source import Source

PAST = "past"
_PAST, _PROMPT = 6, 7
"""Lengths of the traced examples."""


def flatten(cache: Any) -> tuple[list[Tensor], Any]:
    """A cache as its tensors, and what builds it again: nested tuples, or layers with keys and values."""
    layers = getattr(cache, "layers", None)
    if layers is not None:
        return [each for layer in layers for each in (layer.keys, layer.values)], type(cache)
    leaves, spec = pytree.tree_flatten(cache)
    if not all(isinstance(each, Tensor) for each in leaves):
        raise FormatFailed("the cache holds more than tensors", why=f"it is a {type(cache).__name__}")
    return leaves, spec


def rebuild(tensors: Sequence[Tensor], shape: Any) -> Any:
    """The cache that `flatten` took apart."""
    if isinstance(shape, type):
        pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
        return shape(ddp_cache_data=pairs)
    return pytree.tree_unflatten(list(tensors), shape)


class Cached(nn.Module):
    """The adapter with the cache as plain tensors, in and out."""

    def __init__(self, adapter: Adapter, argument: str, shape: Any = None) -> None:
        super().__init__()
        self.model = adapter.module
        self.argument = argument
        self._adapter = [adapter]
        self._shape = [shape]

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        adapter = self._adapter[0]
        batch: dict[str, Any] = {"input_ids": input_ids, **asking(adapter.signature)}
        if past:
            batch[self.argument] = rebuild(past, self._shape[0])
        output = adapter(**batch)
        present, self._shape[0] = flatten(cache_of(output, self.argument))
        return output.main, *present


@dataclass(frozen=True)
class _Pair:
    prefill: ExportedProgram
    decode: ExportedProgram
    prefill_interface: Interface
    decode_interface: Interface


def write_pt2(source: Source, folder: Path) -> dict[str, Any]:
    """`model.prefill.pt2` and `model.decode.pt2`; the manifest's entry."""
    pair = _traced(source)
    pt2.save(pair.prefill, folder / "model.prefill.pt2")
    pt2.save(pair.decode, folder / "model.decode.pt2")
    return _entry(pair, "pt2")


def write_onnx(source: Source, folder: Path) -> dict[str, Any]:
    """`model.prefill.onnx` and `model.decode.onnx`; the manifest's entry."""
    pair = _traced(source)
    parts = (
        ("prefill", pair.prefill, pair.prefill_interface),
        ("decode", pair.decode, pair.decode_interface),
    )
    for name, program, interface in parts:
        onnx.save(onnx.converted(program, interface), program, folder / f"model.{name}.onnx")
    return _entry(pair, "onnx") | {"opset": onnx.OPSET}


def _entry(pair: _Pair, ending: str) -> dict[str, Any]:
    past = [each.to_dict() for each in pair.decode_interface.inputs[1:]]
    return {"file": f"model.prefill.{ending}", "decode": f"model.decode.{ending}", "past": past}


def _traced(source: Source) -> _Pair:
    adapter = source.adapter
    argument = cache_argument(adapter.signature)
    if not adapter.is_causal_lm or argument is None:
        raise FormatFailed(
            "there is no cache to decode with",
            why=f"the task is {source.model.task.kind}" if argument else "forward takes none",
            next="take pt2 or onnx",
        )
    module = Cached(adapter, argument).eval()
    ids = example(adapter, 2, _PROMPT, seed=3)["input_ids"]
    with torch.no_grad():
        try:
            present = module(ids[:, :_PAST])[1:]
        except (AttributeError, TypeError) as problem:
            raise FormatFailed("the model's cache cannot be taken apart", why=obstacle(problem)) from problem
        longer = module(ids)[1:]
    past = [
        _axes(f"past_{place}", one, other)
        for place, (one, other) in enumerate(zip(present, longer, strict=True))
    ]
    limit = source.interface.max_length
    first = Axes("input_ids", "int64", (BATCH, SEQUENCE))
    output = Axes("logits", "float32", (BATCH, SEQUENCE, source.interface.output.axes[-1]))
    new = Axes("input_ids", "int64", (BATCH, 1))
    prefill, decode = Interface((first,), output, limit), Interface((new, *past), output, limit)
    return _Pair(
        _program(module, (ids,), prefill), _program(module, (ids[:, -1:], *present), decode), prefill, decode
    )


def _axes(name: str, one: Tensor, other: Tensor) -> Axes:
    axes: list[str | int] = [BATCH, *one.shape[1:]]
    grown = [place for place, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b]
    if len(grown) != 1 or one.shape[0] != 2:
        raise FormatFailed(
            "the cache does not grow by one place per token",
            why=f"{name}: {tuple(one.shape)}, {tuple(other.shape)}",
        )
    axes[grown[0]] = PAST
    return Axes(name, str(one.dtype).removeprefix("torch."), tuple(axes))


def _program(module: Cached, inputs: tuple[Tensor, ...], interface: Interface) -> ExportedProgram:
    limit = interface.max_length
    dims = {
        BATCH: torch.export.Dim(BATCH, min=1),
        SEQUENCE: torch.export.Dim(SEQUENCE, min=1, max=limit),
        PAST: torch.export.Dim(PAST, min=1, max=None if limit is None else limit - 1),
    }
    free = [
        {at: dims[axis] for at, axis in enumerate(each.axes) if isinstance(axis, str)}
        for each in interface.inputs
    ]
    shapes = (free[0], tuple(free[1:])) if free[1:] else (free[0],)
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as problem:  # torch raises dozens of kinds here
        raise FormatFailed(
            "torch.export cannot trace this model with its cache", why=obstacle(problem, interface.names)
        ) from problem
