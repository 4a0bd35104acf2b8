"""Whatever forward returns is read into one form."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import torchstone as ts
from torchstone._errors import ModelError
from torchstone.adapt.facts import ModelFacts
from torchstone.adapt.output import read_output

FACTS = ModelFacts(vocab_size=11)
LOGITS, HIDDEN, LOSS = torch.randn(2, 5, 11), torch.randn(2, 5, 8), torch.tensor(2.5)


@dataclasses.dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


Pair = namedtuple("Pair", "scores extra")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (LOGITS, "tensor"),
        ((LOGITS,), "tuple[0]"),
        ((LOSS, LOGITS), "tuple[1]"),
        ((LOGITS, LOSS), "tuple[0]"),
        ((LOGITS, None), "tuple[0]"),
        ((None, LOGITS), "tuple[1]"),
        ((HIDDEN, LOGITS), "tuple[1]"),
        ([HIDDEN, HIDDEN, LOGITS], "list[2]"),
        ({"logits": LOGITS}, "logits"),
        ({"aux": HIDDEN, "logits": LOGITS, "loss": LOSS}, "logits"),
        ({"scores": LOGITS}, "scores"),
        ({"logits": (LOGITS, HIDDEN)}, "logits"),
        (Answer(LOSS, LOGITS), "logits"),
        (Pair(LOGITS, 3), "scores"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_main_is_found(raw: Any, name: str) -> None:
    output = read_output(raw, FACTS)
    assert output.main is LOGITS and output.logits is LOGITS and output.main_name == name
    assert output.raw is raw


@pytest.mark.parametrize(
    "raw", [(LOSS, LOGITS), (LOGITS, LOSS), {"loss": LOSS, "logits": LOGITS}, Answer(LOSS, LOGITS)]
)
def test_loss_is_found(raw: Any) -> None:
    assert read_output(raw, FACTS).loss is LOSS


def test_loss_is_not_main_even_where_nothing_is_known() -> None:
    output = read_output((LOSS, HIDDEN))
    assert output.main is HIDDEN and output.loss is LOSS


def test_hidden_states_are_the_last_layers_when_there_is_no_head() -> None:
    first, last = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    output = read_output([first, last], FACTS)
    assert output.main is last and output.logits is None and output.hidden_states == (first, last)


def test_extras_of_a_tuple() -> None:
    states, maps = (HIDDEN, HIDDEN), (torch.rand(2, 4, 5, 5),)
    output = read_output((LOSS, LOGITS, states, maps), FACTS)
    assert output.hidden_states is states and output.attentions is maps


def test_library_output() -> None:
    from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

    cache = ((HIDDEN, HIDDEN),)
    output = read_output(CausalLMOutputWithPast(loss=LOSS, logits=LOGITS, past_key_values=cache), FACTS)
    assert output.logits is LOGITS and output.loss is LOSS and output.past_key_values is cache
    base = read_output(BaseModelOutput(last_hidden_state=HIDDEN), FACTS)
    assert base.main is HIDDEN and base.logits is None and base.main_name == "last_hidden_state"


@pytest.mark.parametrize("raw", [None, 3, {}, (), {"loss": LOSS}, ("a", None)])
def test_no_tensor_is_told(raw: Any) -> None:
    with pytest.raises(ModelError):
        read_output(raw, FACTS)


@given(
    st.permutations(["loss", "logits", "hidden_states", "aux"]),
    st.booleans(),
)
def test_order_of_fields_does_not_matter_and_reading_twice_is_reading_once(
    order: list[str], as_object: bool
) -> None:
    values = {"loss": LOSS, "logits": LOGITS, "hidden_states": (HIDDEN,), "aux": HIDDEN}
    raw: Any = {name: values[name] for name in order}
    if as_object:
        raw = dataclasses.make_dataclass("Raw", order)(**raw)
    output = read_output(raw, FACTS)
    assert output.main is LOGITS and output.loss is LOSS and output.hidden_states == (HIDDEN,)
    assert read_output(output, FACTS) is output


class TimeFirst(nn.Module):
    """Takes (B, T), gives (T, B, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids)).transpose(0, 1)


class AllTimeFirst(TimeFirst):
    """Takes (T, B), gives (T, B, V): a position sees its past, which lies along the first dimension."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids).cumsum(0))


def test_time_first_outputs_are_turned() -> None:
    model, ids = TimeFirst(), torch.randint(11, (2, 5))
    output = ts.adapt(model)(input_ids=ids)
    assert torch.equal(output.main, model(ids).transpose(0, 1)) and output.logits is output.main
    assert output.raw.shape == (5, 2, 11), "raw is left as it came"


def test_time_first_inputs_are_turned() -> None:
    model, ids = AllTimeFirst(), torch.randint(11, (2, 5))
    adapter = ts.adapt(model)
    torch.testing.assert_close(adapter(input_ids=ids).main, model(ids.T).transpose(0, 1))
    assert adapter.facts.input_layout == "TB" and adapter.is_causal_lm


class LastOnly(TimeFirst):
    """Without targets it answers for the last position only."""

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.table(idx).cumsum(1)
        if targets is None:
            return self.head(x[:, [-1]]), None
        logits = self.head(x)
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def test_model_that_answers_fully_only_with_labels_gets_them() -> None:
    model, ids = LastOnly(), torch.randint(11, (2, 5))
    adapter = ts.adapt(model)
    output = adapter(input_ids=ids)
    assert torch.equal(output.main, model(ids, ids)[0])
    assert output.loss is None, "a loss against labels of ours says nothing"
    assert adapter(input_ids=ids, labels=ids).loss is not None
    assert any("targets" in note for note in adapter.notes)
