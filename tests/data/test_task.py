"""Task specs: names people know lead to the right kind; impossible ones are refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from torchstone._errors import UsageError
from torchstone.data.task import ALIASES, KINDS, ROLES, TEXT_KINDS, TaskSpec
from torchstone.train.losses import LOSSES


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


def test_one_spec_drives_batch_loss_and_metrics() -> None:
    assert tuple(ROLES) == KINDS
    assert {kind for kind, role in ROLES.items() if role.modality == "text"} == set(TEXT_KINDS)
    for rule in LOSSES:
        role = ROLES[rule.name]
        assert role.target_fields == rule.labels
        assert ("perplexity" in role.metrics) == rule.has_perplexity
    assert {kind for kind, role in ROLES.items() if role.target_fields} == set(LOSSES.names())


@pytest.mark.parametrize("name", TaskSpec.presets())
def test_presets_by_name_survive_being_saved(name: str) -> None:
    spec = TaskSpec.from_name(name)
    assert spec.name == name
    assert TaskSpec.from_name(name.replace("-", "_")) == spec
    assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.input_shape == ((3, 32, 32) if spec.is_vision else (128,))
    assert spec.target_fields == ("labels",)


def test_a_saved_spec_says_what_is_wrong_with_it() -> None:
    weighted = dataclasses.replace(TaskSpec.text_classification(2), class_weights=(1.0, 3.0))
    assert TaskSpec.from_dict(json.loads(json.dumps(weighted.to_dict()))) == weighted
    with pytest.raises(UsageError, match="no field 'num_class'") as caught:
        TaskSpec.from_dict({"kind": "vision", "num_class": 3})
    assert "num_classes" in caught.value.why
    with pytest.raises(UsageError, match="which task"):
        TaskSpec.from_dict({"num_classes": 3})


def test_class_methods_name_their_kind() -> None:
    assert TaskSpec.token_classification(9).num_classes == 9
    assert TaskSpec.question_answering(max_length=64).target_fields == ("start_positions", "end_positions")
    assert TaskSpec.regression().metrics == ("loss",)
    assert TaskSpec.seq2seq().input_fields == ("input_ids", "attention_mask", "decoder_input_ids")
    assert TaskSpec.vision().input_fields == ("pixel_values",)
    assert TaskSpec(kind="audio").is_audio
