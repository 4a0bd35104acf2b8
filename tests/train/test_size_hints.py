"""Sizes that waste matrix units are named with the nearest good ones, where there are such units."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from torchstone.train.size_hints import find_waste, size_hint, tell_sizes


def model(vocab_size: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(vocab_size, width), nn.Linear(width, 128), nn.Linear(128, vocab_size))


def test_names_size_place_and_the_nearest_good_ones() -> None:
    found = {(each.what, each.size): each for each in find_waste(model(50_257, 100))}
    assert set(found) == {("vocabulary", 50_257), ("width", 100)}
    vocabulary = found["vocabulary", 50_257]
    assert (vocabulary.nearest, vocabulary.module, vocabulary.layers) == ((50_240, 50_304), "0", 2)
    hint = size_hint(model(50_257, 100))
    assert hint is not None
    for words in ("50,257", "50,304", "width 100", "64 or 128"):
        assert words in hint


def test_good_sizes_and_small_ones_are_left_alone() -> None:
    assert size_hint(model(50_304, 192)) is None
    assert size_hint(nn.Linear(128, 10)) is None


def test_a_note_for_a_gpu_and_a_quiet_line_for_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    with caplog.at_level(logging.INFO):
        tell_sizes(model(300, 64), torch.device("cpu"), notes)
        assert notes == [] and "vocabulary 300" in caplog.text
    tell_sizes(model(300, 64), torch.device("cuda"), notes)
    assert len(notes) == 1
