"""Values that a model cannot take, found on the host before they reach it, with the example named.

A GPU answers an id beyond the embedding with a crash that names nothing, and NaN in an input shows up as NaN
in a loss some steps later. Looking costs one pass over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone.data.collate import IGNORED_LABEL, MASK_OF
from torchstone.data.task import TaskSpec

ID_FIELDS = ("input_ids", "decoder_input_ids")
LM_KINDS = ("causal-lm", "masked-lm", "seq2seq")

NameRow = Callable[[int], str]
"""Row of the batch -> what its user calls it."""


def require_known_values(batch: Mapping[str, Tensor], task: TaskSpec | None, name_row: NameRow) -> None:
    """Ids inside the vocabulary, labels inside the classes, lengths inside the limit, finite numbers."""
    for name, values in batch.items():
        if values.is_floating_point():
            _require_numbers(name, values, name_row)
    if task is None:
        return
    for name in ID_FIELDS:
        if name in batch:
            _require_length(name, batch, task.max_length, name_row)
            if task.vocab_size is not None:
                _require_range(batch[name], task.vocab_size, f"{name}: token id", "vocabulary", name_row)
    labels = batch.get("labels")
    if labels is not None and not labels.is_floating_point():
        limit = task.vocab_size if task.kind in LM_KINDS else task.num_classes
        is_copy = task.kind in LM_KINDS and torch.equal(labels, batch.get("input_ids", labels[:0]))
        if limit is not None and not is_copy:
            if labels.numel() and int(labels.min()) < 0:
                labels = labels.masked_fill(labels == IGNORED_LABEL, 0)
            _require_range(labels, limit, "labels: value", "range of the labels", name_row)


def _require_numbers(name: str, values: Tensor, name_row: NameRow) -> None:
    # A sum is finite only if all of it is, short of an overflow, which the closer look then clears.
    if bool(torch.isfinite(values.sum())):
        return
    bad = ~torch.isfinite(values)
    if not bool(bad.any()):
        return
    row = int(bad.reshape(len(values), -1).any(1).nonzero()[0, 0])
    raise DataError(
        f"{name} holds {values[bad][0].item()}, which is no number to learn from",
        where=name_row(row),
        why=f"{int(bad.sum())} of {bad.numel()} values of its batch are not finite",
        next="repair or leave out that example",
    )


def _require_length(name: str, batch: Mapping[str, Tensor], limit: int | None, name_row: NameRow) -> None:
    values = batch[name]
    if limit is None or values.dim() < 2 or values.shape[1] <= limit:
        return
    mask = batch.get(MASK_OF[name])
    row = 0 if mask is None or mask.shape != values.shape else int(mask.sum(1).argmax())
    raise DataError(
        f"{name}: a sequence of {values.shape[1]} tokens is longer than the model takes",
        where=name_row(row),
        why=f"its limit is {limit} tokens",
        next=f"cut the sequences to {limit} tokens, or say TaskSpec(max_length=...) if the limit is wrong",
    )


def _require_range(values: Tensor, limit: int, what: str, which: str, name_row: NameRow) -> None:
    if not values.numel():
        return
    low, high = (int(each) for each in values.aminmax())
    if low >= 0 and high < limit:
        return
    wrong = low if low < 0 else high
    row = int((values == wrong).nonzero()[0, 0])
    raise DataError(
        f"{what} {wrong} is outside the {which}",
        where=name_row(row),
        why=f"allowed is 0 to {limit - 1}",
        next="use the tokenizer that belongs to the model, or a model with more rows",
    )
