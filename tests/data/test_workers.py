"""Worker processes change nothing but who makes the batches."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone.data.dataset import ExampleDataset
from torchstone.data.loader import Loader


class Rows:
    def __init__(self, noisy: bool = False, broken: Any = None) -> None:
        self.noisy, self.broken = noisy, broken

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Tensor:
        if index == 6 and self.broken:
            self.broken()
        return torch.full((3,), float(index)) + (torch.rand(3) if self.noisy else 0)


def loader(num_workers: int, **rows: Any) -> Loader:
    return Loader(ExampleDataset(Rows(**rows)), 4, seed=5, num_workers=num_workers)


def drawn(made: Loader) -> list[tuple[list[Any], dict[str, Any]]]:
    return [(batch["input_values"].tolist(), state) for batch, state in made]


def test_the_same_batches_and_states_with_and_without() -> None:
    alone, helped = loader(0), loader(2)
    for _ in range(2):  # two epochs
        before = torch.get_rng_state()
        assert drawn(alone) == drawn(helped)
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_in_the_middle_of_an_epoch(num_workers: int) -> None:
    whole = drawn(loader(num_workers))
    again = loader(num_workers)
    again.load_state(whole[0][1])
    assert drawn(again) == whole[1:]


def test_a_dataset_that_draws_gives_the_same_with_one_worker_or_two_and_after_a_resume() -> None:
    one, two = drawn(loader(1, noisy=True)), drawn(loader(2, noisy=True))
    assert one == two
    again = loader(2, noisy=True)
    again.load_state(one[1][1])
    assert drawn(again) == one[2:]


def fail() -> None:
    raise ValueError("disc read error")


def test_a_failure_in_a_worker_is_told_as_without() -> None:
    told = []
    for num_workers in (0, 1):
        with pytest.raises(DataError) as caught:
            drawn(loader(num_workers, broken=fail))
        told.append(str(caught.value))
    assert told[0] == told[1] and "example 6" in told[0]
    with pytest.raises(DataError, match="a worker of the DataLoader died"):
        drawn(loader(1, broken=lambda: os._exit(1)))


def test_a_first_look_starts_no_process_and_moves_nothing() -> None:
    made = loader(2, noisy=True)
    before = torch.get_rng_state()
    made.first()
    assert torch.equal(before, torch.get_rng_state())
    assert made.state() == loader(2).state()
