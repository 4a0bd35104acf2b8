"""Sizes are measured, and where the config disagrees the model is believed and a note tells so."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchstone as ts
from torchstone.adapt.facts import read_facts


class Model(nn.Module):
    def __init__(self, rows: int = 31, positions: int = 12, offset: int = 0, out: int | None = None) -> None:
        super().__init__()
        self.other = nn.Embedding(50257, 1)
        self.table = nn.Embedding(rows, 8)
        self.places = nn.Embedding(positions, 8)
        self.offset = offset
        self.head = nn.Linear(8, rows if out is None else out)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1]) + self.offset
        return self.head(self.table(input_ids) + self.places(places))


class Sliced(Model):
    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(1, 20, 8))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids) + self.wave[:, : input_ids.shape[1]])


class Buffered(Model):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.ones(1, 1, 24, 24).tril())

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        return self.head(self.bias[0, 0, :length, :length] @ self.table(input_ids))


class Fixed(Model):
    """Takes one length only."""

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(1, 20, 8))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids) + self.wave)


class Asserted(Model):
    """Says no beyond 40 tokens, and has no table that would show it."""

    def forward(self, input_ids: Tensor) -> Tensor:
        assert input_ids.shape[1] <= 40
        return self.head(self.table(input_ids))


class Free(Model):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids))


class OneHot(Model):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table.weight[input_ids])


@pytest.mark.parametrize(
    ("model", "limit", "source"),
    [
        (Model(), 12, "position table"),
        (Model(positions=14, offset=2), 12, "position table"),
        (Sliced(), 20, "position table"),
        (Buffered(), 24, "position table"),
        (Fixed(), 20, "the only length it takes"),
        (Asserted(), 40, "probing"),
        (Free(), None, None),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else str(each),
)
def test_position_limit(model: nn.Module, limit: int | None, source: str | None) -> None:
    facts = read_facts(model)
    assert (facts.max_seq_len, facts.max_seq_len_source) == (limit, source)
    batch = ts.adapt(model).examples.batch(2)
    assert limit is None or batch["input_ids"].shape[1] <= limit


def test_vocabulary_is_the_table_that_consumes_ids() -> None:
    for model in (Model(), OneHot()):
        facts = read_facts(model)
        assert (facts.vocab_size, facts.vocab_size_source) == (31, "embedding")


def test_config_is_confirmed_or_contradicted() -> None:
    agreed = read_facts(Model(), {"vocab_size": 31})
    assert agreed.vocab_size_source == "config, confirmed by the embedding" and not agreed.notes
    wrong = read_facts(Model(), {"vocab_size": 50257})
    assert wrong.vocab_size == 31 and wrong.vocab_size_source == "embedding"
    assert any("50257" in note and "31" in note for note in wrong.notes)


def test_padded_table_keeps_the_vocabulary_of_config_and_output() -> None:
    facts = read_facts(Model(rows=32, out=29), {"vocab_size": 29})
    assert facts.vocab_size == 29 and any("32" in note for note in facts.notes)


def test_config_longer_than_the_table() -> None:
    facts = read_facts(Model(), {"max_position_embeddings": 64})
    assert facts.max_seq_len == 12 and any("64" in note for note in facts.notes)


def test_ids_beyond_the_vocabulary_that_are_accepted_are_told() -> None:
    class Wraps(Free):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids.clamp(max=30))

    assert any("beyond" in note for note in read_facts(Wraps()).notes)
    assert not read_facts(Free()).notes


@pytest.mark.parametrize(
    "config",
    [
        {"vocab_size": 31, "max_seq_len": 12, "pad_token_id": 3},
        types.SimpleNamespace(n_vocab=31, block_size=12, pad_token_id=3),
        {"text_config": {"vocab_size": 31, "n_positions": 12, "pad_token_id": 3}},
        {"nodes": [{"id": "embedding_0", "params": {"vocab_size": 31, "seq_length": 12, "pad_token_id": 3}}]},
    ],
    ids=["flat", "object", "nested", "nodes"],
)
def test_forms_of_config(config: Any) -> None:
    facts = read_facts(Model(), config)
    assert (facts.vocab_size, facts.max_seq_len, facts.pad_token_id) == (31, 12, 3)


def test_padding_id_of_the_table() -> None:
    model = Model()
    model.table = nn.Embedding(31, 8, padding_idx=5)
    facts = read_facts(model)
    assert facts.pad_token_id == 5
    ids = ts.adapt(model).examples.batch(64)["input_ids"]
    assert 5 not in ids and set(ids.unique().tolist()) == set(range(31)) - {5}


def test_reading_leaves_no_trace() -> None:
    class Counts(Model):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.drop = nn.Dropout(0.5)

        def forward(self, input_ids: Tensor) -> Tensor:
            self.calls += 1
            return self.drop(super().forward(input_ids))

    model = Counts().train()
    model.drop.eval()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ts.adapt(model)
    assert float(model.calls) == 0 and model.training and not model.drop.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(each.grad is None for each in model.parameters())


def test_image_size_is_found_by_trying() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 26 * 26, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).flatten(1))

    adapter = ts.adapt(Classifier())
    assert adapter.examples.primary == "pixel_values"
    assert adapter.examples.batch(2)["pixel_values"].shape == (2, 1, 28, 28)
    assert adapter.task.kind == "vision" and adapter.facts.output_size == 10


def test_two_vocabularies() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target, self.head = nn.Embedding(40, 8), nn.Embedding(9, 8), nn.Linear(8, 9)

        def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
            return self.head(self.target(tgt).cumsum(1) + self.source(src).mean(1, keepdim=True))

    adapter = ts.adapt(Translator())
    assert (adapter.facts.vocab_size, adapter.facts.decoder_vocab_size) == (40, 9)
    batch = adapter.examples.batch(64)
    assert int(batch["input_ids"].max()) == 39 and int(batch["decoder_input_ids"].max()) == 8
    assert adapter(**batch).logits is not None and adapter.task.kind == "seq2seq"
