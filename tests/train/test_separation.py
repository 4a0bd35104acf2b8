"""`data.document_attention` is proven on the model, or refused; what has no effect is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchstone as ts
from torchstone._errors import ConfigError, ModelError
from torchstone.data.pack import TokenBlocks
from torchstone.train.separation import keep_apart, require_separation


def small_gpt() -> nn.Module:
    from torchstone.nn.gpt import GPT, GPTConfig

    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=300, max_seq_len=32, d_model=16, num_layers=2, num_heads=2))


class Deaf(nn.Module):
    """Takes the mask and the positions and does nothing with them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_gpt()

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None) -> Tensor:
        return self.inner(input_ids).logits


class Unplaced(Deaf):
    """Hears the mask, but counts positions through."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None) -> Tensor:
        return self.inner(input_ids, attention_mask=attention_mask).logits


class Flat(Deaf):
    """Knows masks of padding only."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None) -> Tensor:
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError("the mask has the wrong shape")
        return self.inner(input_ids).logits


class NoMask(Deaf):
    """Its mask would have to be dropped on the way."""

    def forward(self, input_ids: Tensor) -> Tensor:  # type: ignore[override]
        return self.inner(input_ids).logits


def blocks(ends: tuple[int, ...] = (5, 20)) -> TokenBlocks:
    made = TokenBlocks(np.arange(64, dtype=np.uint16) + 9, 32, ends=np.array(ends))
    keep_apart(made, None, causal=True, eos_token_id=None)
    return made


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_can_is_left_as_it_was(training: bool) -> None:
    model = small_gpt().train(training)
    state = torch.get_rng_state()
    require_separation(ts.adapt(model), model, blocks())
    assert model.training is training and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Deaf, "reaches the next"), (NoMask, "reaches the next"), (Unplaced, "alone"), (Flat, "wrong shape")],
)
def test_a_model_that_cannot_is_an_error(kind: type[nn.Module], why: str) -> None:
    model = kind()
    with pytest.raises(ModelError, match="does not keep the documents") as caught:
        require_separation(ts.adapt(model), model, blocks())
    assert why in caught.value.why


def test_one_document_per_block_is_no_effect() -> None:
    model = small_gpt()
    with pytest.raises(ConfigError, match="no effect"):
        require_separation(ts.adapt(model), model, blocks(ends=(32, 64)))


@pytest.fixture
def texts(tmp_path: Path) -> str:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"document {number} " * (1 + number % 3))
    return str(folder)


def losses(texts: str, tmp_path: Path, model: nn.Module, **options: Any) -> list[float]:
    config = ts.TrainingConfig(
        batch_size=4,
        max_steps=3,
        sequence_length=32,
        checkpoint_dir=str(tmp_path / f"{type(model).__name__}{len(options)}"),
        **options,
    )
    from torchstone.data.byte_tokenizer import ByteTokenizer

    result = ts.Trainer(model, config, task=ts.TaskSpec.language_modeling(), tokenizer=ByteTokenizer()).train(
        texts
    )
    return [result.final["train/loss"], result.final["val/loss"]]


def test_a_run_with_and_without(texts: str, tmp_path: Path) -> None:
    apart = losses(texts, tmp_path, small_gpt(), document_attention=True)
    assert all(np.isfinite(apart))
    assert apart != losses(texts, tmp_path, small_gpt())
    with pytest.raises(ModelError, match="does not keep"):
        losses(texts, tmp_path, NoMask(), document_attention=True)


def test_wishes_without_effect(texts: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bucket_by_length has no effect"):
        losses(texts, tmp_path, small_gpt(), bucket_by_length=True)
    config = ts.TrainingConfig(document_attention=True, max_steps=1, checkpoint_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="document_attention has no effect"):
        ts.Trainer(small_gpt(), config).train([torch.arange(9)] * 4)


def test_examples_of_unequal_length_in_buckets(tmp_path: Path) -> None:
    data = [torch.arange(2 + (each * 7) % 20) for each in range(24)]
    config = ts.TrainingConfig(
        batch_size=4, max_steps=4, bucket_by_length=True, checkpoint_dir=str(tmp_path / "run")
    )
    result = ts.Trainer(small_gpt(), config, task=ts.TaskSpec.language_modeling()).train(data)
    assert result.steps == 4
