"""The role of every argument, whatever its kind and its name."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchstone as ts
from torchstone._errors import ModelError
from torchstone.adapt.signature import read_signature, unwrap


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(19, 8), nn.Linear(8, 19)


def roles(module: nn.Module) -> dict[str, str]:
    return {each.name: each.role for each in read_signature(module)}


def test_roles_by_name() -> None:
    class Model(Tables):
        def forward(
            self,
            input_ids,
            attention_mask=None,
            position_ids=None,
            token_type_ids=None,
            inputs_embeds=None,
            past_key_values=None,
            use_cache=False,
            labels=None,
            output_attentions: bool | None = None,
            pixel_values=None,
            input_features=None,
            decoder_input_ids=None,
            decoder_attention_mask=None,
            mhsa_0_output=None,
            window=None,
            **kwargs,
        ):
            return self.head(self.table(input_ids))

    assert roles(Model()) == {
        "input_ids": "ids",
        "attention_mask": "mask",
        "position_ids": "positions",
        "token_type_ids": "token_types",
        "inputs_embeds": "embeddings",
        "past_key_values": "cache",
        "use_cache": "cache",
        "labels": "labels",
        "output_attentions": "flag",
        "pixel_values": "pixels",
        "input_features": "audio",
        "decoder_input_ids": "decoder_ids",
        "decoder_attention_mask": "decoder_mask",
        "mhsa_0_output": "intermediate",
        "window": "unknown",
        "kwargs": "var_keywords",
    }


@pytest.mark.parametrize(
    "name", ["attention_mask", "attention_0", "layer_norm_eps", "layer_output", "mhsa_output"]
)
def test_intermediate_needs_kind_index_and_output(name: str) -> None:
    source = f"def forward(self, input_ids, {name}=None): return self.head(self.table(input_ids))"
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert roles(type("Model", (Tables,), {"forward": scope["forward"]})())[name] != "intermediate"


def test_kinds_of_arguments() -> None:
    class Model(Tables):
        def forward(self, ids, /, *extra, mask=None, **rest):
            return self.head(self.table(ids))

    signature = read_signature(Model())
    assert [each.kind for each in signature] == [
        "positional-only",
        "var-positional",
        "keyword-only",
        "var-keyword",
    ]
    assert [each.required for each in signature] == [True, False, False, False]
    assert signature.accepts_any_keyword
    ids = torch.randint(19, (2, 5))
    model = Model()
    assert torch.equal(ts.adapt(model)(input_ids=ids).main, model(ids))


def test_keyword_only_ids_are_bound() -> None:
    class Model(Tables):
        def forward(self, *, tokens, positions):
            return self.head(self.table(tokens) + positions[..., None])

    model, ids = Model(), torch.randint(19, (2, 5))
    expected = model(tokens=ids, positions=torch.arange(5).expand(2, 5))
    assert torch.equal(ts.adapt(model)(input_ids=ids).main, expected)


def test_required_mask_is_made() -> None:
    class Model(Tables):
        def forward(self, input_0_tokens, attention_mask):
            return self.head(self.table(input_0_tokens) * attention_mask[..., None])

    model, ids = Model(), torch.randint(19, (2, 5))
    assert torch.equal(ts.adapt(model)(input_ids=ids).main, model(ids, torch.ones(2, 5)))


class Wants(nn.Module):
    """One argument called x; the layer decides what it is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class ByParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(19, 8))

    def forward(self, x):
        return self.table[x]


@pytest.mark.parametrize(
    ("layer", "role"),
    [
        (nn.Embedding(19, 8), "ids"),
        (nn.Conv2d(3, 8, 3), "pixels"),
        (nn.Conv1d(1, 8, 10), "audio"),
        (nn.Linear(8, 8), "embeddings"),
        (nn.LayerNorm(8), "embeddings"),
        (nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), "embeddings"),
        (ByParameter(), "ids"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else each,
)
def test_nameless_argument_is_placed_by_what_consumes_it(layer: nn.Module, role: str) -> None:
    assert roles(Wants(layer)) == {"x": role}
    adapter = ts.adapt(Wants(layer))
    assert adapter(**adapter.examples.batch(2)).main.shape[0] == 2


def test_two_nameless_sequences() -> None:
    class Pair(Tables):
        def forward(self, src, tgt):
            return self.head(self.table(tgt) + self.table(src).mean(1, keepdim=True))

    adapter = ts.adapt(Pair())
    assert {each.name: each.natural for each in adapter.signature} == {
        "src": "input_ids",
        "tgt": "decoder_input_ids",
    }
    assert adapter.task.kind == "seq2seq"


def test_required_unknown_argument_is_named_when_bound() -> None:
    class Model(Tables):
        def forward(self, input_ids, gadget):
            return self.head(self.table(input_ids)) * gadget

    adapter = ts.adapt(Model())
    with pytest.raises(ModelError, match="gadget"):
        adapter(input_ids=torch.zeros(1, 3, dtype=torch.long))
    assert adapter(input_ids=torch.zeros(1, 3, dtype=torch.long), gadget=2.0).main.shape == (1, 3, 19)


def test_looks_through_wrappers() -> None:
    class Model(Tables):
        def forward(self, input_ids, attention_mask=None):
            return self.head(self.table(input_ids))

    class Passes(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    inner = Model()
    ids = torch.randint(19, (2, 5))
    compiled = torch.compile(inner, backend="eager")
    for wrapped in (Passes(inner), compiled, nn.DataParallel(inner), Passes(compiled)):
        assert unwrap(wrapped) is inner
        adapter = ts.adapt(wrapped)
        assert [each.name for each in adapter.signature] == ["input_ids", "attention_mask"]
        assert adapter.module is wrapped
    assert torch.equal(ts.adapt(Passes(inner))(input_ids=ids).main, inner(ids))


def test_decorated_forward_is_read_through() -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Model(Tables):
        @logged
        def forward(self, input_ids, attention_mask=None):
            return self.head(self.table(input_ids))

    assert roles(Model()) == {"input_ids": "ids", "attention_mask": "mask"}


def test_module_without_forward_is_refused() -> None:
    class Empty(nn.Module):
        pass

    with pytest.raises(ModelError, match="no forward"):
        ts.adapt(Empty())


class Masked(Tables):
    """Mean over visible tokens, added to each; `form` turns the argument into weights of 0 and 1."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def blend(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        x = self.table(ids)
        weight = torch.ones(ids.shape) if mask is None else self.form(mask).float()
        return self.head(x + (x * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None])


class MaskKeeps(Masked):
    def forward(self, tokens, mask=None):
        return self.blend(tokens, mask)


class MaskRequired(Masked):
    def forward(self, tokens, mask):
        return self.blend(tokens, mask)


@pytest.mark.parametrize("kind", [MaskKeeps, MaskRequired])
@pytest.mark.parametrize(
    "form",
    [
        lambda mask: mask,
        lambda mask: ~mask if mask.dtype == torch.bool else 1 / 0,
        lambda mask: mask[:, 0, 0],
    ],
    ids=["1 keeps", "True hides", "over heads"],
)
def test_meaning_of_a_mask_is_found_by_what_it_does(kind: type[Masked], form: Any) -> None:
    adapter = ts.adapt(kind(form))
    ids = torch.randint(19, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[:, 4:] = 0
    other = ids.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 19
    a, b = (adapter(input_ids=each, attention_mask=mask).main[:, :4] for each in (ids, other))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, adapter(input_ids=ids, attention_mask=torch.ones_like(mask)).main[:, :4])


class Square(Tables):
    """The caller makes it causal: a mask of T by T."""

    def forward(self, x, mask):
        h = self.table(x)
        scores = (h @ h.transpose(1, 2)).masked_fill(mask == 0, float("-inf"))
        assert mask.dim() == 2 and mask.shape[0] == mask.shape[1] == x.shape[1]
        return self.head(scores.softmax(-1) @ h)


def test_required_square_mask_is_made_causal() -> None:
    model, ids = Square(), torch.randint(19, (2, 6))
    adapter = ts.adapt(model)
    assert torch.equal(adapter(input_ids=ids).main, model(ids, torch.ones(6, 6).tril()))
    assert any("causal" in note for note in adapter.notes)
