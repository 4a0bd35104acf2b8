"""Whatever a user has, as a dataset of examples under their natural names.

    as_dataset([torch.tensor([5, 6, 7]), torch.tensor([8, 9])], task=TaskSpec.language_modeling())
    as_dataset(torch_dataset, task=TaskSpec.vision())

Taken are lists of tensors, torch datasets, and iterables of dictionaries or (input, label) pairs; an input
may be an image file. Texts are not tokenised here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone.data.collate import PadCollator
from torchstone.data.image import is_image, read_image
from torchstone.data.task import TaskSpec

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[dict[str, Tensor]]], Batch]

ALIASES = {"label": "labels", "label_ids": "labels"}
WIDENED = (torch.uint16, torch.uint32, torch.uint64, torch.int16)
"""Types of ids that no embedding takes."""
IMAGE_NAMES = ("image", "img")


class Dataset(Protocol):
    """What the loader needs: a size, and the batch of any indices."""

    fingerprint: str
    """Changes when the examples do, as far as that can be seen cheaply."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...


class ExampleDataset:
    """Examples by index, put together by `collate`."""

    def __init__(self, examples: Any, task: TaskSpec | None = None, collate: Collate | None = None) -> None:
        self._examples = examples
        self._task = task
        self._collate = collate or PadCollator(task)
        self.fingerprint = f"examples/{len(examples)}"
        if not len(examples):
            raise DataError("there are no examples", why="the dataset is empty")

    def __len__(self) -> int:
        return len(self._examples)

    def lengths(self) -> np.ndarray[Any, Any]:
        """Of the longest sequence of each example; reads all examples once."""
        return np.array(
            [
                max((len(each) for each in self._example(index).values() if each.dim() == 1), default=1)
                for index in range(len(self))
            ]
        )

    def batch(self, indices: Sequence[int]) -> Batch:
        return self._collate([self._example(index) for index in indices])

    def _example(self, index: int) -> dict[str, Tensor]:
        try:
            raw = self._examples[index]
        except Exception as problem:
            raise _broken(index, problem) from problem
        return to_example(raw, index, self._task)


def as_dataset(data: Any, task: TaskSpec | None = None, collate: Collate | None = None) -> Dataset:
    """`data` as a dataset; one that has `batch` already is taken as it is."""
    if callable(getattr(data, "batch", None)) and hasattr(data, "fingerprint"):
        return cast("Dataset", data)
    if isinstance(data, str | bytes):
        raise DataError(
            "a text is no dataset",
            why=f"got {data[:40]!r}",
            next="give its path as a source (--data PATH), or tokenise it first",
        )
    if isinstance(data, Mapping):
        raise DataError(
            "a dictionary is no dataset",
            why="it may be one example or columns of many",
            next="give a list of dictionaries, one per example",
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return ExampleDataset(data, task, collate)
    if isinstance(data, Iterable):
        return ExampleDataset(list(_drain(data)), task, collate)
    raise DataError(
        f"{type(data).__name__} is no dataset", next="give a list of tensors, a torch Dataset or an iterable"
    )


def to_example(raw: Any, index: int, task: TaskSpec | None = None) -> dict[str, Tensor]:
    """One example under natural names; `index` is for the error, `task` for the size of images."""
    if isinstance(raw, Mapping):
        return {
            _natural(str(name), value): _values(value, index, str(name), task)
            for name, value in raw.items()
            if value is not None
        }
    if isinstance(raw, tuple) and len(raw) == 2:
        values = _values(raw[0], index, "the input", task)
        return {_name_of(values): values, "labels": _tensor(raw[1], index, "labels")}
    if isinstance(raw, tuple) and len(raw) == 1:
        raw = raw[0]
    values = _values(raw, index, "the input", task)
    return {_name_of(values): values}


def _natural(name: str, value: Any) -> str:
    if name in IMAGE_NAMES:
        return "pixel_values"
    return ALIASES.get(name, name)


def _values(value: Any, index: int, name: str, task: TaskSpec | None) -> Tensor:
    return read_image(value, task, f"example {index}") if is_image(value) else _tensor(value, index, name)


def _tensor(value: Any, index: int, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.long() if value.dtype in WIDENED else value
    if isinstance(value, str):
        raise DataError(
            f"example {index}: {name} is a text",
            why=f"got {value[:40]!r}",
            next="tokenise it first, e.g. {'input_ids': tokenizer.encode(text)}",
        )
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise DataError(f"example {index}: {name} is no array of numbers", why=str(problem)) from None
    # Lists of Python floats become fp64, which no model takes; ids on disk are as narrow as they can be.
    if tensor.dtype in WIDENED:
        return tensor.long()
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _name_of(values: Tensor) -> str:
    """Whole numbers are token ids, (C, H, W) is an image, other numbers are a signal."""
    if not values.is_floating_point():
        return "input_ids"
    return "pixel_values" if values.dim() == 3 else "input_values"


def _drain(data: Iterable[Any]) -> Iterator[Any]:
    index = 0
    source = iter(data)
    while True:
        try:
            item = next(source)
        except StopIteration:
            return
        except Exception as problem:
            raise _broken(index, problem) from problem
        yield item
        index += 1


def _broken(index: int, problem: Exception) -> DataError:
    return DataError(f"the dataset failed at example {index}", why=f"{type(problem).__name__}: {problem}")
