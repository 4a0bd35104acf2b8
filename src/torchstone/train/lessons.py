"""Data from which any sound model of a task can learn something, drawn in the shapes that it takes.

    rows = lessons(adapter, 96, length=32, seed=0)     # one dictionary per example, with labels

Half of all tokens are of eight ids, and a class or a number shows in the level of its inputs, so a model that
learns anything at all gets better on rows that it has not seen. It says nothing about language or pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchstone._errors import ModelError

if TYPE_CHECKING:
    from torchstone.adapt.adapter import Adapter

KINDS = ("causal-lm", "seq2seq", "classification", "token-classification", "vision", "regression")
"""Tasks that there are lessons for. Masked models need a mask id, which only a tokenizer can tell."""
FAVOURED = 8
"""Ids that make up half of all tokens."""
CLASSES = 2
"""Of a classifier that does not say how many it has."""

Row = dict[str, Tensor]


def lessons(
    adapter: Adapter, count: int, *, length: int = 32, seed: int = 0, below: int | None = None
) -> list[Row]:
    """`count` examples with `labels`; `below`: ids of a smaller vocabulary that another model has."""
    kind = adapter.task.kind
    if kind not in KINDS:
        raise ModelError(
            f"there is nothing to teach a model of the task {kind}",
            why=f"data can be drawn for {', '.join(KINDS)}",
            next="give data of your own",
        )
    batch = adapter.examples.batch(count, length=length, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    primary = adapter.examples.primary
    inputs = batch[primary]
    if kind in ("causal-lm", "seq2seq"):
        batch[primary] = _skewed(inputs, generator, below)
        batch["labels"] = batch[primary].clone()
        batch.pop("decoder_input_ids", None)  # they are made of the labels
    elif kind == "token-classification":
        batch["labels"] = inputs % _num_classes(adapter)
    else:
        classes = _num_classes(adapter) if kind != "regression" else 2
        lot = torch.randint(classes, (count,), generator=generator)
        batch[primary] = _shown(inputs, lot, classes, below)
        batch["labels"] = lot.float() if kind == "regression" else lot
    ragged = [name for name, each in batch.items() if each.shape[:1] != (count,)]
    if ragged:
        raise ModelError(
            "examples of this model cannot be told apart by row",
            why=f"{', '.join(ragged)} packs all rows of a batch into one",
            next="give data of your own",
        )
    return [{name: each[row] for name, each in batch.items()} for row in range(count)]


def _skewed(ids: Tensor, generator: torch.Generator, below: int | None) -> Tensor:
    known = _known(ids, below)
    favoured = known[torch.randint(len(known), (FAVOURED,), generator=torch.Generator().manual_seed(0))]
    choice = favoured[torch.randint(FAVOURED, ids.shape, generator=generator)]
    if below is not None:
        ids = known[torch.randint(len(known), ids.shape, generator=generator)]
    return torch.where(torch.rand(ids.shape, generator=generator) < 0.5, choice, ids)


def _shown(inputs: Tensor, lot: Tensor, classes: int, below: int | None) -> Tensor:
    """The class can be read off: from which part of the known ids, or how bright."""
    wide = lot.view(-1, *[1] * (inputs.dim() - 1))
    if inputs.is_floating_point():
        return inputs + 2.0 * wide / max(classes - 1, 1) - 1.0
    known = _known(inputs, below)
    part = max(1, len(known) // classes)
    return known[
        (torch.searchsorted(known, inputs.clamp(max=int(known[-1]))) % part + wide * part) % len(known)
    ]


def _known(ids: Tensor, below: int | None) -> Tensor:
    """Ids that the model takes, rising: those that were drawn."""
    known = torch.unique(ids)
    return known if below is None else known[known < below]


def _num_classes(adapter: Adapter) -> int:
    return adapter.task.num_classes or adapter.facts.num_classes or CLASSES
