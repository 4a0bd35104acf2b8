"""Whatever `Trainer.train` is given, as a dataset that the loader can draw from.

a list of tensors, a torch Dataset, an iterable of dictionaries or (input, label) pairs    as it is
a Hugging Face Dataset                    columns that a model knows; texts are encoded, others left out
rows or strings that hold texts           encoded with the tokenizer
paths to images, or PIL images            read when drawn
a flat array or memory map of token ids   blocks of sequence_length
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from torchstone._errors import DataError
from torchstone.data.dataset import ALIASES, Collate, Dataset, as_dataset
from torchstone.data.task import TaskSpec
from torchstone.data.text_rows import DEFAULT_LENGTH, encode_rows, find_texts
from torchstone.data.token_file import blocks_of_array

MODEL_COLUMNS = frozenset(
    {
        "input_ids", "attention_mask", "token_type_ids", "position_ids", "decoder_input_ids",
        "decoder_attention_mask", "inputs_embeds", "pixel_values", "input_values", "input_features",
        "labels", "start_positions", "end_positions", "image", *ALIASES,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A dataset, and whether `sequence_length` had a say in it."""

    dataset: Dataset
    takes_length: bool = False


def open_data(
    data: Any,
    task: TaskSpec,
    *,
    tokenizer: Any = None,
    sequence_length: int | None = None,
    collate: Collate | None = None,
    notes: list[str],
) -> Opened:
    """`notes` hears what was left out or cut."""
    stream = _stream(data)
    if stream is not None:
        length = sequence_length or min(task.max_length or DEFAULT_LENGTH, DEFAULT_LENGTH)
        return Opened(blocks_of_array(stream, length), takes_length=True)
    if _is_split(data):
        raise DataError(
            "this is a dictionary of splits, not one dataset",
            why=f"it holds {', '.join(map(str, data))}",
            next="train(data['train'], data['validation'])",
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and len(data) and collate is None:
        columns = find_texts(_first(data), task)
        if columns is not None:
            made = encode_rows(
                data,
                columns,
                task,
                tokenizer,
                sequence_length=sequence_length,
                collate=collate,
                notes=notes,
            )
            return Opened(made, takes_length=True)
        data = _known_columns(data, notes)
    return Opened(as_dataset(data, task, collate))


def _stream(data: Any) -> np.ndarray[Any, Any] | None:
    """A flat array of ids; more dimensions are examples."""
    if isinstance(data, Tensor) and data.dim() == 1 and not data.is_floating_point():
        return data.cpu().numpy()
    return data if isinstance(data, np.ndarray) and data.ndim == 1 and data.dtype != object else None


def _is_split(data: Any) -> bool:
    return isinstance(data, Mapping) and all(hasattr(each, "column_names") for each in data.values())


def _first(data: Any) -> Any:
    try:
        return data[0]
    except Exception:  # the loader tells it with the example named
        return None


def _known_columns(data: Any, notes: list[str]) -> Any:
    """A Hugging Face dataset without the columns that no model takes."""
    names = getattr(data, "column_names", None)
    if not isinstance(names, list) or not callable(getattr(data, "select_columns", None)):
        return data
    known = [name for name in names if name in MODEL_COLUMNS]
    if not known:
        raise DataError(
            "no column of the dataset is one that a model takes",
            why=f"it has {', '.join(names)}",
            next="rename or map them to input_ids, pixel_values, text, image, label ...",
        )
    others = [name for name in names if name not in MODEL_COLUMNS]
    if others:
        notes.append(f"columns left out: {', '.join(others)}")
        return data.select_columns(known)
    return data
