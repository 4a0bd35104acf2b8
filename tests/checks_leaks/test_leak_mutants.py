"""Library models, healthy as they are, get one leak patched in; every leak is convicted at the right module.

The mutation is a forward hook or a wrapped forward on a block or an attention, placed by a seeded draw.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.library import LIBRARY

import torchstone as ts

pytest.importorskip("transformers", reason="the library models come with the extra [hf]")

BY_NAME = {each.name: each for each in LIBRARY}
DECODERS = ["gpt2", "llama", "gemma2", "gpt-neox", "opt", "bloom", "mixtral", "mamba", "phi", "bert-lm-head"]
ENCODERS = ["bert-mlm", "roberta-mlm", "distilbert", "albert"]
LEAK_CHECKS = ["causal-leak", "padding-leak", "batch-leak", "state-leak", "eval-determinism"]


@dataclass(frozen=True)
class Mutation:
    """A fault, the check that must see it, and how it changes the hidden states of one block."""

    name: str
    check: str
    change: Callable[[nn.Module, Tensor], Tensor]


def _looks_ahead(_: nn.Module, x: Tensor) -> Tensor:
    return x + 0.01 * x.roll(-1, dims=1)


def _mean_over_tokens(_: nn.Module, x: Tensor) -> Tensor:
    return x + 1e-4 * x.mean(1, keepdim=True) * x


def _last_to_first(_: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([x[:, :1] * (1 + 1e-3 * x[:, -1:].tanh()), x[:, 1:]], 1)


def _batch_mean(_: nn.Module, x: Tensor) -> Tensor:
    return x * (1 + 0.1 * x.mean(0, keepdim=True).tanh())


def _previous_row(_: nn.Module, x: Tensor) -> Tensor:
    return x + 0.01 * x.roll(1, dims=0) * x


def _keeps_state(module: nn.Module, x: Tensor) -> Tensor:
    last = getattr(module, "last_seen", 0.0)
    module.last_seen = x.detach().mean((0, 1))
    return x + 0.1 * last


def _counts(module: nn.Module, x: Tensor) -> Tensor:
    module.calls = getattr(module, "calls", 0) + 1
    return x * (1 + 1e-3 * module.calls)


def _dropout_on(_: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, 0.1)


def _noise(_: nn.Module, x: Tensor) -> Tensor:
    return x * (1 + 1e-4 * torch.randn_like(x))


MUTATIONS = [
    Mutation("one token ahead", "causal-leak", _looks_ahead),
    Mutation("faint mean over tokens", "causal-leak", _mean_over_tokens),
    Mutation("last token to the first", "causal-leak", _last_to_first),
    Mutation("batch mean", "batch-leak", _batch_mean),
    Mutation("previous row", "batch-leak", _previous_row),
    Mutation("keeps the last mean", "state-leak", _keeps_state),
    Mutation("counts its calls", "state-leak", _counts),
    Mutation("functional dropout", "eval-determinism", _dropout_on),
    Mutation("noise", "eval-determinism", _noise),
]


def blocks_of(model: nn.Module) -> list[str]:
    """Names of the layers: members of the longest list of equal modules, by class."""
    lists = [
        (name, each)
        for name, each in model.named_modules()
        if isinstance(each, nn.ModuleList) and len({type(child) for child in each}) == 1 and len(each) > 1
    ]
    if not lists:
        return []
    name, longest = max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    return [f"{name}.{number}" for number in range(len(longest))]


def mutate(model: nn.Module, place: str, mutation: Mutation) -> None:
    """Wrap `forward` of the block, as somebody who edits its code would."""
    block = model.get_submodule(place)
    original = block.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        if isinstance(output, Tensor):
            return mutation.change(self, output)
        return (mutation.change(self, output[0]), *output[1:])

    block.forward = types.MethodType(forward, block)


def _cases() -> list[tuple[str, Mutation]]:
    """Each mutation on three architectures, drawn with a seed."""
    draw = random.Random(0)
    cases = []
    for mutation in MUTATIONS:
        pool = DECODERS if mutation.check == "causal-leak" else DECODERS + ENCODERS
        cases += [(name, mutation) for name in draw.sample(pool, 3)]
    return cases


@pytest.mark.parametrize(("name", "mutation"), _cases(), ids=lambda each: getattr(each, "name", each))
def test_a_mutated_block_is_convicted_by_name(name: str, mutation: Mutation) -> None:
    model = BY_NAME[name].build()
    places = blocks_of(model)
    place = random.Random(f"{name} {mutation.name}").choice(places)
    mutate(model, place, mutation)
    found = ts.check(model, task=BY_NAME[name].task, only=[mutation.check])[mutation.check]
    assert found.status == "fail", found
    assert found.module == place, found


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt-neox"])
def test_a_dropped_mask_is_convicted_at_its_attention(name: str) -> None:
    """The mask of one attention is dropped: it sees everything."""
    model = BY_NAME[name].build()
    model.config._attn_implementation = "eager"
    place = blocks_of(model)[1]
    attention = next(
        (f"{place}.{child}", each)
        for child, each in model.get_submodule(place).named_children()
        if ("attn" in child or "attention" in child) and list(each.children())
    )
    original = attention[1].forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = None
        return original(*args, **kwargs)

    attention[1].forward = types.MethodType(forward, attention[1])
    found = ts.check(model, task="causal-lm", only=["causal-leak"])["causal-leak"]
    assert found.status == "fail", found
    assert found.module == attention[0], found


@pytest.mark.parametrize("name", ["bert-mlm", "distilbert", "roberta-mlm"])
def test_an_ignored_padding_mask_is_convicted_at_its_layer(name: str) -> None:
    model = BY_NAME[name].build()
    place = blocks_of(model)[1]
    layer = model.get_submodule(place)
    original = layer.forward

    def forward(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        args = tuple(None if isinstance(each, Tensor) else each for each in args)
        kwargs = {key: None if "mask" in key else each for key, each in kwargs.items()}
        return original(x, *args, **kwargs)

    layer.forward = types.MethodType(forward, layer)
    found = ts.check(model, task="masked-lm", only=["padding-leak"])["padding-leak"]
    assert found.status == "fail", found
    assert found.module is not None and found.module.startswith(place), found


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_leaked_labels_are_convicted(name: str) -> None:
    model = BY_NAME[name].build()
    original = model.forward

    def forward(self: nn.Module, input_ids: Tensor, attention_mask: Any = None, labels: Any = None) -> Any:
        output = original(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if labels is not None:
            output.logits = output.logits + 1e-3 * F.one_hot(labels, output.logits.shape[-1]).to(
                output.logits
            )
        return output

    model.forward = types.MethodType(forward, model)
    found = ts.check(model, task="causal-lm", only=["causal-leak"])["causal-leak"]
    assert found.status == "fail" and "labels" in found.summary, found
    assert found.module == type(model).__name__


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_the_same_models_unharmed_are_acquitted(name: str) -> None:
    report = ts.check(BY_NAME[name].build(), task=BY_NAME[name].task, only=LEAK_CHECKS)
    assert [each for each in report if each.status in ("fail", "error")] == []
