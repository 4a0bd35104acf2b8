"""Batches made by other processes: the same ones in the same order, and their failures in our words.

Each batch seeds the generators of its worker from (seed, epoch, number), so a dataset that draws random
numbers gives the same with one worker or many (without any it draws from the training's own generators).
Those of the training process are left alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchstone._errors import DataError, TorchstoneError


class Draws(Protocol):
    def batch(self, indices: Sequence[int]) -> Any: ...


class _Batches(TorchDataset[Any]):
    """Batch by number; an error is handed over as a value, for as an exception it would lose its details."""

    def __init__(self, dataset: Draws, chosen: Sequence[Sequence[int]], seeds: tuple[int, int, int]) -> None:
        self.dataset, self.chosen, self.seeds = dataset, chosen, seeds

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Any:
        seed, epoch, first = self.seeds
        drawn = int(np.random.default_rng([seed, epoch, first + number]).integers(1 << 32))
        random.seed(drawn)
        np.random.seed(drawn)
        torch.manual_seed(drawn)
        try:
            return self.dataset.batch(self.chosen[number])
        except TorchstoneError as error:
            return error


def drawn_by_workers(
    dataset: Draws, chosen: Sequence[Sequence[int]], num_workers: int, *, seed: int, epoch: int, first: int
) -> Iterator[Any]:
    """The batches of `chosen`, made by `num_workers` processes; `first` is the first one's number."""
    loader = DataLoader(
        _Batches(dataset, chosen, (seed, epoch, first)),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),  # so that the copy to the device need not wait
        generator=torch.Generator(),  # else the base seed would be drawn from the generator of the training
    )
    batches = iter(loader)
    for number in range(len(chosen)):
        try:
            batch = next(batches)
        except Exception as problem:
            raise loader_failure(first + number, problem) from problem
        if isinstance(batch, TorchstoneError):
            raise batch
        yield batch


def loader_failure(number: int, problem: Exception) -> Exception:
    """The error of a DataLoader as ours; what torchstone raised in a dataset stays what it is."""
    if isinstance(problem, TorchstoneError | MemoryError):
        return problem
    text = str(problem).strip()
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "is killed by signal" in text):
        return DataError(
            f"a worker of the DataLoader died while batch {number} was waited for",
            why=text.splitlines()[0],
            next="num_workers=0 shows the error itself; a worker that is killed had too little memory",
        )
    # What a worker raised comes with its traceback as text; its last line is the error.
    last = text.splitlines()[-1] if text else ""
    said = last if last.startswith(type(problem).__name__) else f"{type(problem).__name__}: {last}"
    ragged = "equal size" in text or "same size" in text
    return DataError(
        f"the DataLoader failed at batch {number}",
        why=said,
        next="give it a collate_fn that pads, or pass the dataset itself, which is padded here"
        if ragged
        else "",
    )
