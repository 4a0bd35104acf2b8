"""What users have becomes batches under natural names, and what cannot is one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from torchstone._errors import DataError
from torchstone.data.dataset import as_dataset
from torchstone.data.pack import TokenBlocks
from torchstone.data.task import TaskSpec

LM = TaskSpec.language_modeling(vocab_size=50, pad_token_id=7)


def whole(data: Any, task: TaskSpec | None = None) -> dict[str, torch.Tensor]:
    dataset = as_dataset(data, task)
    return dataset.batch(range(len(dataset)))


def test_ragged_ids_are_padded_and_the_pads_are_no_targets() -> None:
    batch = whole([torch.tensor([1, 7, 3]), torch.tensor([4])], LM)
    assert batch["input_ids"].tolist() == [[1, 7, 3], [4, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    # The real 7 stays a target though it equals the pad token.
    assert batch["labels"].tolist() == [[1, 7, 3], [4, -100, -100]]


def test_equal_lengths_need_no_mask() -> None:
    batch = whole([[1, 2], [3, 4]], LM)
    assert set(batch) == {"input_ids", "labels"}
    assert batch["input_ids"].dtype == torch.long


def test_a_users_own_mask_and_labels_are_kept() -> None:
    examples = [
        {"input_ids": [1, 2], "attention_mask": [1, 0], "labels": [1, -100]},
        {"input_ids": [3], "attention_mask": [1], "labels": [3]},
    ]
    batch = whole(examples, LM)
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 0]]
    assert batch["labels"].tolist() == [[1, -100], [3, -100]]
    unlabelled = [{"input_ids": [1, 2], "attention_mask": [1, 0]}]
    assert whole(unlabelled, LM)["labels"].tolist() == [[1, -100]]


def test_decoder_ids_get_their_own_mask() -> None:
    examples = [{"input_ids": [1], "decoder_input_ids": [2, 3]}, {"input_ids": [4], "decoder_input_ids": [5]}]
    batch = whole(examples, TaskSpec.seq2seq())
    assert batch["decoder_attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert "attention_mask" not in batch
    assert "labels" not in batch


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(torch.randn(4, 3, 8, 8), torch.arange(4)),
        [(torch.randn(3, 8, 8), 1)] * 4,
        [(np.random.default_rng(0).random((3, 8, 8)), 1)] * 4,
        [{"pixel_values": torch.randn(3, 8, 8), "label": 2}] * 4,
    ],
    ids=["TensorDataset", "pairs", "numpy pairs", "dicts"],
)
def test_images_come_under_their_name(data: Any) -> None:
    batch = whole(data, TaskSpec.vision_tiny())
    assert batch["pixel_values"].shape == (4, 3, 8, 8)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].shape == (4,)


def test_generators_and_iterable_datasets_are_read_once() -> None:
    class Stream(IterableDataset[dict[str, list[int]]]):
        def __iter__(self) -> Iterator[dict[str, list[int]]]:
            yield from ({"input_ids": [index]} for index in range(3))

    for data in (Stream(), iter(Stream()), ({"input_ids": [index]} for index in range(3))):
        dataset = as_dataset(data, LM)
        assert dataset.batch([2, 0])["input_ids"].tolist() == [[2], [0]]


def test_token_blocks_are_a_dataset_already() -> None:
    blocks = TokenBlocks(np.arange(10, dtype=np.uint16), 5)
    assert as_dataset(blocks) is blocks


def broken() -> Iterator[dict[str, list[int]]]:
    yield {"input_ids": [1]}
    raise RuntimeError("disk on fire")


class BrokenInside(TorchDataset[torch.Tensor]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            raise OSError("image.png is truncated")
        return torch.tensor([index])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "no examples"),
        (iter(()), "no examples"),
        (broken(), "failed at example 1\n.*RuntimeError: disk on fire"),
        (BrokenInside(), "failed at example 2\n.*image.png is truncated"),
        ("some text", "a text is no dataset"),
        ({"input_ids": [1]}, "a dictionary is no dataset"),
        (5, "int is no dataset"),
        ([{"text": "hello"}], "example 0: text is a text\n.*hello"),
        ([{"input_ids": [1]}, {"input_ids": object()}], "example 1: input_ids is no array"),
        ([{"input_ids": [1]}, {"ids": [1]}], r"example 1 of the batch has the fields \['ids'\]"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], r"pixel_values of unequal shapes"),
    ],
)
def test_unusable_data_is_explained(data: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        whole(data)


def test_a_users_collator_is_used() -> None:
    dataset = as_dataset([[1], [2]], collate=lambda examples: {"count": torch.tensor(len(examples))})
    assert dataset.batch([0, 1])["count"].item() == 2
