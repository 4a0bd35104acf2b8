"""A torch DataLoader as a loader that can resume: its epochs are replayed up to where they were.

A DataLoader keeps its place nowhere; its order follows from torch's global generator at the start of an
epoch. So that state is kept, and on resume the epoch is begun again from it and the batches that were
used are drawn and thrown away. Our own `Loader` seeks instead; give a dataset where that matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from torchstone._errors import DataError
from torchstone._seeds import restore_rng, rng_state
from torchstone.data.dataset import to_example
from torchstone.data.known_values import require_known_values
from torchstone.data.part import WHOLE, Part
from torchstone.data.task import TaskSpec
from torchstone.data.workers import loader_failure


def is_loader(data: Any) -> bool:
    return isinstance(data, DataLoader)


class ReplayedLoader:
    """Batches under their natural names, each with the state that resumes behind it."""

    def __init__(self, loader: DataLoader[Any], task: TaskSpec, part: Part = WHOLE) -> None:
        if isinstance(loader.dataset, IterableDataset):
            raise DataError(
                "a DataLoader over an IterableDataset has no known length",
                why="epochs and schedule could not be planned",
                next="give a dataset with __len__ and __getitem__",
            )
        self.loader = loader
        self.task = task
        self.part = part
        """Which rows of each batch are given; all ranks draw the whole of it."""
        self.epoch = 0
        self._skip = 0
        self._rng_at_start: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        epoch, skip, start = self.epoch, self._skip, self._rng_at_start
        self._skip, self._rng_at_start = 0, None
        after = rng_state()
        if start is not None:
            restore_rng(start)
        start = rng_state()
        batches = self._begin()
        for number in range(len(self)):
            if number < skip:
                self._next(batches, number)
                if number + 1 == skip:
                    restore_rng(after)
                continue
            batch = self._named(self._next(batches, number), number)
            last = number + 1 == len(self)
            yield batch, self._state(epoch + last, 0 if last else number + 1, None if last else start)
        self.epoch = epoch + 1

    def state(self) -> dict[str, Any]:
        return self._state(self.epoch, self._skip, self._rng_at_start)

    def load_state(self, state: dict[str, Any]) -> None:
        if state["batches"] != len(self):
            raise DataError(
                "the data is not what it was when the state was saved",
                why=f"an epoch has {len(self)} batches now and had {state['batches']}",
                next="resume with the same data and batch size, or start a new run",
            )
        self.epoch, self._skip, self._rng_at_start = state["epoch"], state["skip"], state["rng_at_start"]

    def _state(self, epoch: int, skip: int, rng_at_start: dict[str, Any] | None) -> dict[str, Any]:
        return {"epoch": epoch, "skip": skip, "rng_at_start": rng_at_start, "batches": len(self)}

    def _named(self, raw: Any, number: int) -> dict[str, Tensor]:
        if isinstance(raw, list):  # the default collate makes lists of tuples
            raw = tuple(raw)
        batch = dict(raw) if isinstance(raw, Mapping) else to_example(raw, number, self.task)
        if self.task.kind in ("causal-lm", "masked-lm") and "labels" not in batch:
            labels = batch["input_ids"].clone()
            mask = batch.get("attention_mask")
            batch["labels"] = labels if mask is None else labels.masked_fill(mask == 0, -100)
        batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        require_known_values(batch, self.task, lambda row: f"batch {number}, row {row}")
        return self.part.of_batch(batch)

    def _begin(self) -> Iterator[Any]:
        try:
            return iter(self.loader)
        except Exception as problem:
            raise loader_failure(0, problem) from problem

    def _next(self, batches: Iterator[Any], number: int) -> Any:
        try:
            return next(batches)
        except StopIteration:
            raise DataError(
                f"the DataLoader ended after {number} batches",
                why=f"it promised {len(self)} by its length",
                next="correct the __len__ of its sampler or dataset",
            ) from None
        except Exception as problem:
            raise loader_failure(number, problem) from problem
