"""Batches of unequal examples: what is padded is known by length, and pixels are scaled when asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchstone as ts
from torchstone._errors import ConfigError, DataError, UsageError
from torchstone.data.collate import PadCollator
from torchstone.data.normalisation import SCALES, with_normalisation
from torchstone.data.task import TaskSpec

SEQUENCES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=5)


@given(SEQUENCES, st.integers(0, 9))
def test_padding_is_no_target_and_a_real_end_is(sequences: list[list[int]], pad: int) -> None:
    """Whatever the pad token is, also where it is one that the text ends with."""
    examples = [{"input_ids": torch.tensor(each)} for each in sequences]
    batch = PadCollator(TaskSpec.language_modeling(pad_token_id=pad))(examples)
    width = max(map(len, sequences))
    mask = batch.get("attention_mask", torch.ones(len(sequences), width, dtype=torch.long))
    for row, ids in enumerate(sequences):
        rest = width - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [pad] * rest
        assert batch["labels"][row].tolist() == ids + [-100] * rest
        assert mask[row].tolist() == [1] * len(ids) + [0] * rest


def test_pairs_and_classes() -> None:
    pairs = [
        {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([3])},
        {"input_ids": torch.tensor([4]), "labels": torch.tensor([5, 6])},
    ]
    batch = PadCollator(TaskSpec.seq2seq())(pairs)
    assert batch["labels"].tolist() == [[3, -100], [5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    rows = [{"input_ids": torch.tensor([1] * (n + 1)), "labels": torch.tensor(n)} for n in range(3)]
    assert PadCollator(TaskSpec.text_classification(3))(rows)["labels"].tolist() == [0, 1, 2]


def test_nothing_makes_no_batch() -> None:
    with pytest.raises(DataError, match="no examples"):
        PadCollator()([])


def pixels(channels: int = 3, **values: Any) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(channels, 4, 4), **values}


def test_images_are_brought_to_mean_and_spread() -> None:
    examples = [pixels() for _ in range(3)]
    task = with_normalisation(TaskSpec.vision(), "imagenet")
    batch = PadCollator(task)(examples)["pixel_values"]
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in SCALES["imagenet"])
    assert torch.allclose(
        batch * std + mean, torch.stack([each["pixel_values"] for each in examples]), atol=1e-6
    )
    grey = with_normalisation(TaskSpec.vision(num_channels=1), "imagenet")
    assert grey.image_mean == SCALES["imagenet"][0][:1]
    ends = PadCollator(with_normalisation(TaskSpec.vision(), "half"))([{"pixel_values": torch.ones(3, 2, 2)}])
    assert ends["pixel_values"].unique().tolist() == [1.0]
    assert with_normalisation(task, "none") is task


def test_scales_that_do_not_fit() -> None:
    task = with_normalisation(TaskSpec.vision(), "imagenet")
    with pytest.raises(DataError, match="do not fit 3 values"):
        PadCollator(task)([pixels(channels=1)])
    with pytest.raises(DataError, match="cannot be normalised"):
        PadCollator(task)([{"pixel_values": torch.ones(3, 2, 2, dtype=torch.uint8)}])
    with pytest.raises(ConfigError, match="no effect on the task causal-lm"):
        with_normalisation(TaskSpec.language_modeling(), "half")
    for bad in ({"image_mean": (0.5,)}, {"image_mean": (0.5,), "image_std": (0.0,)}):
        with pytest.raises(UsageError):
            TaskSpec(kind="vision", **bad)
    with pytest.raises(UsageError, match="no effect"):
        TaskSpec(kind="causal-lm", image_mean=(0.5,), image_std=(0.5,))


def test_a_vision_run_hears_it(tmp_path: Path) -> None:
    losses = []
    for name in ("none", "half"):
        config = ts.TrainingConfig(
            max_steps=1, batch_size=16, checkpoint_dir=str(tmp_path / name), normalize_images=name
        )
        result = ts.Trainer("zoo:lenet5", config).train("builtin:digits")
        losses.append(result.final["train/loss"])
    assert losses[0] != losses[1]
