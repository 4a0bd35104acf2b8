"""Length bucketing: every example once, similar lengths together, resumed as if never stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import ConfigError, DataError
from torchstone.data import loader as loader_file
from torchstone.data.dataset import as_dataset
from torchstone.data.loader import Loader
from torchstone.data.task import TaskSpec

LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=40).filter(lambda sizes: len(set(sizes)) > 1)
TASK = TaskSpec.language_modeling()


def loader(sizes: list[int], batch_size: int = 4, seed: int = 3, **options: Any) -> Loader:
    """Example i is i, repeated sizes[i] times."""
    data = as_dataset([torch.full((size,), i) for i, size in enumerate(sizes)], TASK)
    return Loader(data, batch_size, seed, bucket_by_length=True, **options)


def drawn(made: Loader) -> list[tuple[list[int], int, dict[str, Any]]]:
    """(examples, width, state) of the rest of the epoch."""
    return [(batch["input_ids"][:, 0].tolist(), batch["input_ids"].shape[1], state) for batch, state in made]


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 7), st.integers(0, 2**40), st.data())
def test_all_once_and_resumed_equals_uninterrupted(
    sizes: list[int], batch_size: int, seed: int, data: st.DataObject
) -> None:
    made = loader(sizes, batch_size, seed)
    whole = [*drawn(made), *drawn(made)]
    num_batches = len(made)
    assert len(whole) == 2 * num_batches
    for epoch in (whole[:num_batches], whole[num_batches:]):
        assert sorted(each for ids, _, _ in epoch for each in ids) == list(range(len(sizes)))
        assert all(len(ids) == batch_size for ids, _, _ in epoch[:-1])
    cut = data.draw(st.integers(0, len(whole) - 2))
    again = loader(sizes, batch_size, seed)
    again.load_state(json.loads(json.dumps(whole[cut][2])))
    rest = drawn(again)
    if again.epoch < 2:
        rest += drawn(again)
    assert rest == whole[cut + 1 :]


def test_there_is_less_padding_and_the_order_is_new_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_file, "POOL_BATCHES", 16)
    sizes = torch.randint(1, 100, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    made = loader(sizes)
    epochs = [drawn(made), drawn(made)]
    padded = sum(4 * width for _, width, _ in epochs[0])
    plain = Loader(made.dataset, 4, seed=3)
    assert padded < 1.1 * sum(sizes) < 1.4 * sum(sizes) < sum(4 * width for _, width, _ in drawn(plain))
    assert [ids for ids, _, _ in epochs[0]] != [ids for ids, _, _ in epochs[1]]
    widths = [width for _, width, _ in epochs[0]]
    assert sorted(widths) != widths  # short and long batches take turns


def test_an_order_of_other_batches_is_refused() -> None:
    sizes = [1, 2, 3, 4, 5, 6]
    state = drawn(loader(sizes, 2))[0][2]
    with pytest.raises(DataError, match="bucketed_by"):
        loader(sizes, 3).load_state(state)
    with pytest.raises(DataError, match="bucketed_by"):
        Loader(loader(sizes).dataset, 2, 3).load_state(state)


def test_equal_lengths_have_no_buckets() -> None:
    with pytest.raises(ConfigError, match="no effect"):
        loader([3, 3, 3])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@settings(deadline=None, max_examples=4)
@given(LENGTHS, st.data())
def test_workers_and_kills_change_nothing(sizes: list[int], data: st.DataObject) -> None:
    whole = drawn(loader(sizes))
    cut = data.draw(st.integers(0, len(whole) - 1))
    again = loader(sizes, num_workers=4)
    if cut:
        again.load_state(whole[cut - 1][2])
    helped = drawn(again)
    assert helped == whole[cut:]
