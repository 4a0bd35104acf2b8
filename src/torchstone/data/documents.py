"""Documents that share a block: where each begins, positions that start anew, and who may see whom.

A block of a packed stream may hold the end of one document and the beginning of the next. With
`data.document_attention` the tokens of one do not see the other's (block-diagonal attention), every document
counts its positions from 0, and its first token is no target: nothing in its own document comes before it.
The logits are then those of each document alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone.data.collate import IGNORED_LABEL

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

Places = np.ndarray[Any, Any]


class Boundaries:
    """Where documents are over in a stream: known places, or else the token that marks an end."""

    def __init__(self, ends: Places | None, eos_token_id: int | None) -> None:
        if ends is None and eos_token_id is None:
            raise DataError(
                "nobody knows where the documents of these token ids are over",
                why="no end-of-document token is known",
                next="name their tokenizer (data.tokenizer), or take data.document_attention out",
            )
        self.ends, self.eos_token_id = ends, eos_token_id

    def numbers(self, start: int, ids: Places) -> Places:
        """For each token of a block that begins at `start`: the number of its document in the block."""
        begins = np.zeros(len(ids) + 1, dtype=np.int64)
        if self.ends is not None:
            low = np.searchsorted(self.ends, start, side="right")
            high = np.searchsorted(self.ends, start + len(ids), side="right")
            # Empty documents end at one place; a number may then be left out.
            np.add.at(begins, np.asarray(self.ends[low:high]) - start, 1)
        else:
            begins[1:] = np.asarray(ids) == self.eos_token_id
        return begins[:-1].cumsum()


def separated(batch: dict[str, Tensor], numbers: Int[Tensor, "B T"], *, causal: bool) -> dict[str, Tensor]:
    """`batch` with positions, mask and targets of documents that do not see each other."""
    begins = torch.ones_like(numbers, dtype=torch.bool)
    begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    place = torch.arange(numbers.shape[1]).expand_as(numbers)
    first = torch.where(begins, place, 0).cummax(dim=1).values
    labels = batch["labels"]
    if causal:
        labels = labels.masked_fill(begins, IGNORED_LABEL)
    return {
        **batch,
        "labels": labels,
        "position_ids": place - first,
        "attention_mask": document_mask(numbers, causal=causal),
    }


def document_mask(numbers: Int[Tensor, "B T"], *, causal: bool) -> Bool[Tensor, "B 1 T T"]:
    """True where a token (row) may see another (column)."""
    same = numbers[:, :, None] == numbers[:, None, :]
    return (same.tril() if causal else same)[:, None]
