"""Laws of the loader: every example once, order from (seed, epoch), resume gives exactly the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone._errors import ConfigError, DataError
from torchstone.data.dataset import as_dataset
from torchstone.data.loader import Loader
from torchstone.data.task import TaskSpec


class Numbers:
    """Example i is the id i."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fingerprint = f"numbers/{size}"

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor(indices)[:, None]}


def drain(loader: Loader, epochs: int) -> list[tuple[list[int], dict[str, Any]]]:
    seen = []
    while loader.epoch < epochs:
        for batch, state in loader:
            seen.append((batch["input_ids"][:, 0].tolist(), state))
    return seen


sizes = st.integers(1, 30)


@settings(deadline=None)
@given(
    size=sizes, batch_size=st.integers(1, 12), seed=st.integers(0, 2**40), shuffle=st.booleans(), at=st.data()
)
def test_resumed_equals_uninterrupted(
    size: int, batch_size: int, seed: int, shuffle: bool, at: st.DataObject
) -> None:
    whole = drain(Loader(Numbers(size), batch_size, seed, shuffle=shuffle), epochs=3)
    cut = at.draw(st.integers(0, len(whole) - 1))
    resumed = Loader(Numbers(size), batch_size, seed, shuffle=shuffle)
    resumed.load_state(json.loads(json.dumps(whole[cut][1])))  # a state survives any file format
    assert drain(resumed, epochs=3) == whole[cut + 1 :]


@settings(deadline=None)
@given(size=sizes, batch_size=st.integers(1, 12), limit=st.one_of(st.none(), sizes))
def test_every_example_once_per_epoch(size: int, batch_size: int, limit: int | None) -> None:
    loader = Loader(Numbers(size), batch_size, seed=3, max_samples=limit)
    expected = size if limit is None else min(size, limit)
    for epoch in range(2):
        batches = [batch["input_ids"][:, 0].tolist() for batch, _ in loader]
        seen = [each for batch in batches for each in batch]
        assert len(batches) == len(loader)
        assert len(seen) == len(set(seen)) == expected
        assert loader.epoch == epoch + 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    loader = Loader(Numbers(50), 7, seed=1)
    assert loader.order(0).tolist() == Loader(Numbers(50), 3, seed=1).order(0).tolist()
    assert loader.order(0).tolist() != loader.order(1).tolist()
    assert loader.order(0).tolist() != Loader(Numbers(50), 7, seed=2).order(0).tolist()
    assert Loader(Numbers(50), 7, shuffle=False).order(4).tolist() == list(range(50))


def test_the_rest_is_exact_even_in_batches_of_another_size() -> None:
    whole = drain(Loader(Numbers(20), 4, seed=9), epochs=1)
    other = Loader(Numbers(20), 3, seed=9)
    other.load_state(whole[1][1])
    rest = [each for ids, _ in drain(other, epochs=1) for each in ids]
    assert rest == [each for ids, _ in whole[2:] for each in ids]


def test_behind_the_last_batch_begins_the_next_epoch() -> None:
    states = [state for _, state in drain(Loader(Numbers(5), 2, seed=9), epochs=2)]
    assert [(state["epoch"], state["consumed"]) for state in states] == [
        (0, 2),
        (0, 4),
        (1, 0),
        (1, 2),
        (1, 4),
        (2, 0),
    ]


def test_looking_does_not_move_the_loader() -> None:
    loader = Loader(Numbers(9), 2, seed=1)
    first = next(iter(loader))[0]["input_ids"]
    assert next(iter(loader))[0]["input_ids"].equal(first)
    assert loader.state()["consumed"] == 0


def test_fewer_samples_are_spread_over_all() -> None:
    loader = Loader(Numbers(100), 10, shuffle=False, max_samples=4)
    assert [batch["input_ids"][:, 0].tolist() for batch, _ in loader] == [[0, 25, 50, 75]]


@pytest.mark.parametrize(
    "changed",
    [Loader(Numbers(21), 4, 9), Loader(Numbers(20), 4, 8), Loader(Numbers(20), 4, 9, shuffle=False)],
    ids=["data", "seed", "order"],
)
def test_the_state_of_other_data_is_refused(changed: Loader) -> None:
    with pytest.raises(DataError, match="not what it was"):
        changed.load_state(Loader(Numbers(20), 4, 9).state())


def test_nothing_to_load_is_an_error() -> None:
    with pytest.raises(DataError, match="no examples"):
        Loader(Numbers(0), 4)
    with pytest.raises(ConfigError, match="batch_size=0"):
        Loader(Numbers(3), 0)


def test_an_id_outside_the_vocabulary_is_named_with_its_example() -> None:
    data = as_dataset([torch.tensor([1, 2]), torch.tensor([3, 99]), torch.tensor([4, 5])])
    loader = Loader(data, 2, shuffle=False, task=TaskSpec.language_modeling(vocab_size=99))
    with pytest.raises(DataError, match="token id 99 is outside the vocabulary") as caught:
        list(loader)
    assert caught.value.where == "example 1"
    negative = as_dataset([torch.tensor([1, -1])])
    with pytest.raises(DataError, match="token id -1"):
        list(Loader(negative, 2, task=TaskSpec.language_modeling(vocab_size=99)))
    list(Loader(data, 2, task=TaskSpec.language_modeling(vocab_size=100)))


def test_a_label_out_of_range_is_named() -> None:
    data = [(torch.randn(3, 4, 4), label) for label in (0, 3, 4)]
    task = TaskSpec.vision_tiny()
    with pytest.raises(DataError, match="value 4 is outside the range of the labels") as caught:
        list(Loader(as_dataset(data, task), 2, shuffle=False, task=task))
    assert caught.value.where == "example 2"
    list(Loader(as_dataset(data[:2], task), 2, task=task))
