"""Natural names in, an `Output` back: laws of binding, and generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import torchstone as ts
from torchstone._errors import ModelError
from torchstone.adapt.generate import generate

V, LIMIT = 13, 10


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.places, self.head = nn.Embedding(V, 8), nn.Embedding(LIMIT, 8), nn.Linear(8, V)
        self.drop = nn.Dropout(0.5)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, key_padding_mask: Any = None, scale: float = 1.0
    ) -> Tensor:
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1]))
        if segments is not None:
            x = x + segments[..., None]
        if key_padding_mask is not None:
            x = x.masked_fill(key_padding_mask[..., None], 0.0)
        return self.drop(self.head(x.cumsum(1))) * scale


torch.manual_seed(0)
MODEL = Model().eval()
ADAPTER = ts.adapt(MODEL)
IDS = torch.randint(V, (2, 6))
BATCH = {
    "input_ids": IDS,
    "token_type_ids": torch.ones_like(IDS),
    "attention_mask": torch.ones_like(IDS),
    "scale": 2.0,
}


@given(st.permutations(list(BATCH)))
def test_order_of_names_does_not_matter(order: list[str]) -> None:
    expected = MODEL(IDS, BATCH["token_type_ids"], BATCH["attention_mask"] == 0, 2.0)
    assert torch.equal(ADAPTER(**{name: BATCH[name] for name in order}).main, expected)


@given(st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20))
def test_unknown_names_are_errors_that_name_them(name: str) -> None:
    known = {each.name for each in ADAPTER.signature} | {each.natural for each in ADAPTER.signature}
    droppable = {"attention_mask", "decoder_attention_mask", "pixel_mask", "position_ids", "labels"}
    if name in known | droppable:
        return
    with pytest.raises(ModelError, match=name):
        ADAPTER(input_ids=IDS, **{name: IDS})


def test_what_changes_no_result_is_dropped_and_told() -> None:
    adapter = ts.adapt(MODEL)
    assert adapter.dropped == ()
    plain = adapter(input_ids=IDS).main
    assert torch.equal(adapter(input_ids=IDS, labels=IDS, position_ids=IDS).main, plain)
    assert adapter.dropped == ("labels", "position_ids")


def test_missing_main_input_is_named() -> None:
    with pytest.raises(ModelError, match="input_ids"):
        ADAPTER(token_type_ids=IDS)


def test_two_names_for_one_argument() -> None:
    with pytest.raises(ModelError, match="tokens"):
        ADAPTER(input_ids=IDS, tokens=IDS)


def test_bind_gives_what_the_model_takes() -> None:
    args, kwargs = ADAPTER.bind({"input_ids": IDS, "scale": 3.0})
    assert args == () and set(kwargs) == {"tokens", "scale"}
    assert torch.equal(MODEL(*args, **kwargs), ADAPTER(input_ids=IDS, scale=3.0).main)


def test_gradients_and_modes_are_the_callers() -> None:
    model = Model().train()
    adapter = ts.adapt(model)
    torch.manual_seed(1)
    output = adapter(input_ids=IDS).main
    torch.manual_seed(1)
    assert torch.equal(output, model(IDS)) and output.requires_grad
    with torch.no_grad():
        assert not adapter(input_ids=IDS).main.requires_grad


@given(st.integers(1, 4), st.integers(1, LIMIT), st.integers(0, 1000))
def test_examples_are_drawn_from_the_vocabulary_by_the_seed(rows: int, length: int, seed: int) -> None:
    batch = ADAPTER.examples.batch(rows, length=length, seed=seed)
    assert set(batch) == {"input_ids"} and batch["input_ids"].shape == (rows, length)
    assert int(batch["input_ids"].min()) >= 0 and int(batch["input_ids"].max()) < V
    assert torch.equal(
        batch["input_ids"], ADAPTER.examples.batch(rows, length=length, seed=seed)["input_ids"]
    )


def test_the_room_is_callable_and_holds_its_parts() -> None:
    assert ts.adapt(MODEL).signature.has("ids")
    assert ts.adapt.adapter.Adapter is ts.Adapter


def test_greedy_generation_follows_the_largest_logit() -> None:
    prompt = torch.randint(V, (2, 3))
    ids = prompt
    for _ in range(4):
        ids = torch.cat([ids, MODEL(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(generate(ADAPTER, prompt, 4, temperature=0), ids)


def test_generation_beyond_the_limit_crops_the_context() -> None:
    model = Model().train()
    adapter = ts.adapt(model)
    torch.manual_seed(7)
    state = torch.get_rng_state()

    def sample(seed: int) -> Tensor:
        return generate(adapter, torch.zeros(1, 2, dtype=torch.long), LIMIT + 5, temperature=50.0, seed=seed)

    ids = sample(1)
    assert ids.shape == (1, LIMIT + 7) and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ids, sample(1)) and not torch.equal(ids, sample(2))


def test_top_1_is_greedy_and_an_end_ends() -> None:
    prompt = torch.randint(V, (1, 3))
    greedy = generate(ADAPTER, prompt, 6, temperature=0)
    assert torch.equal(generate(ADAPTER, prompt, 6, temperature=5.0, top_k=1, seed=3), greedy)
    end = int(greedy[0, 3])
    assert generate(ADAPTER, prompt, 6, temperature=0, eos_token_id=end).shape == (1, 4)


def test_only_language_models_continue_a_text() -> None:
    with pytest.raises(ModelError, match="cannot generate"):
        generate(ts.adapt(MODEL, task="masked-lm"), IDS, 2)
    with pytest.raises(ValueError, match="temperature"):
        generate(ADAPTER, IDS, 2, temperature=-1.0)
