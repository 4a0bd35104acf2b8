"""Examples of unequal length to one batch.

Sequences are padded on the right: ids with the pad token, masks with 0, labels with -100, which the loss
leaves out. What was padded is known from the lengths, never guessed from the ids, so a real end-of-text token
that doubles as pad stays a target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone.data.normalisation import normalised
from torchstone.data.task import TaskSpec

IGNORED_LABEL = -100
MASK_OF = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}


class PadCollator:
    """Stacks what is equal, pads what is ragged; language models without labels get their ids as labels.

    What is hidden from a masked language model is chosen later, by its loss rule; so are the decoder's ids.
    """

    def __init__(self, task: TaskSpec | None = None) -> None:
        self._pad_token_id = (task.pad_token_id if task else None) or 0
        self._scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if task is not None and task.image_mean is not None and task.image_std is not None:
            self._scale = task.image_mean, task.image_std
        self._makes_labels = task is not None and task.kind == "causal-lm"

    def __call__(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        if not examples:
            raise DataError("a batch has no examples", next="give the collator at least one")
        names = list(examples[0])
        for position, example in enumerate(examples):
            if set(example) != set(names):
                raise DataError(
                    f"example {position} of the batch has the fields {sorted(example)}",
                    why=f"the first one has {sorted(names)}",
                )
        batch: dict[str, Tensor] = {}
        for name in names:
            columns = [example[name] for example in examples]
            batch[name] = self._column(name, columns)
            mask_name = MASK_OF.get(name)
            if mask_name and mask_name not in names and _is_ragged(columns):
                batch[mask_name] = _pad([torch.ones_like(each) for each in columns], 0)
        if self._scale is not None and "pixel_values" in batch:
            batch["pixel_values"] = normalised(batch["pixel_values"], *self._scale)
        if self._makes_labels and "labels" not in batch and "input_ids" in batch:
            labels = batch["input_ids"].clone()
            if "attention_mask" in batch:
                labels[batch["attention_mask"] == 0] = IGNORED_LABEL
            batch["labels"] = labels
        return batch

    def _column(self, name: str, columns: Sequence[Tensor]) -> Tensor:
        if not _is_ragged(columns):
            return torch.stack(list(columns))
        if any(column.dim() != 1 for column in columns):
            shapes = sorted({tuple(column.shape) for column in columns})
            raise DataError(
                f"the examples of a batch have {name} of unequal shapes",
                why=f"shapes {shapes}",
                next="bring them to one shape, or give a collator",
            )
        fill = {
            "labels": IGNORED_LABEL,
            "input_ids": self._pad_token_id,
            "decoder_input_ids": self._pad_token_id,
        }
        return _pad(columns, fill.get(name, 0))


def _is_ragged(columns: Sequence[Tensor]) -> bool:
    return len({tuple(column.shape) for column in columns}) > 1


def _pad(columns: Sequence[Tensor], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(columns), batch_first=True, padding_value=fill)
