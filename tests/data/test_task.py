"""Task specs: names people know lead to the right kind; impossible ones are refused."""

from __future__ import annotations

import dataclasses

import pytest

from torchstone._errors import UsageError
from torchstone.data.task import ALIASES, KINDS, TaskSpec


def test_every_kind_and_alias_is_found() -> None:
    for name in (*KINDS, *ALIASES):
        assert TaskSpec.from_name(name).kind in KINDS
    assert TaskSpec.from_name(" Causal_LM ").kind == "causal-lm"
    assert TaskSpec.from_name("vision_tiny") == TaskSpec.vision_tiny()
    assert TaskSpec.from_name("text_tiny") == TaskSpec.text_tiny()


def test_presets() -> None:
    assert TaskSpec.language_modeling(100, 32).vocab_size == 100
    assert TaskSpec.language_modeling().is_text
    assert TaskSpec.masked_language_modeling(pad_token_id=0).pad_token_id == 0
    assert TaskSpec.text_classification(5).num_classes == 5
    assert TaskSpec.seq2seq().kind == "seq2seq"
    vision = TaskSpec.vision(num_classes=7)
    assert (vision.num_classes, vision.image_size, vision.num_channels) == (7, 32, 3)
    assert not vision.is_text
    assert TaskSpec.vision_tiny().name == "vision-tiny"
    assert TaskSpec.vision().name == "vision"


def test_a_spec_is_frozen_and_sound() -> None:
    spec = TaskSpec.vision_tiny()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.kind = "audio"
    with pytest.raises(UsageError, match="did you mean 'causal-lm'"):
        TaskSpec.from_name("causal-ml")
    with pytest.raises(UsageError, match="vocab_size=0"):
        TaskSpec.language_modeling(vocab_size=0)
