"""Healthy library models with one seeded fault (block unhooked, path cut, weight spoilt): found and named.

The mutation acts on the first repeated stack of composite blocks; it needs no knowledge of the architecture.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo.library import LIBRARY

import torchstone as ts

NAMES = ["gpt2", "llama", "bert-mlm", "t5", "vit", "mixtral"]
MODELS = {each.name: each for each in LIBRARY}
CHOSEN = [name for name in NAMES if name in MODELS]


def block_of(model: nn.Module, place: int) -> tuple[str, nn.Module]:
    """A block of the first list of like, composite modules."""
    for name, each in model.named_modules():
        members = list(each) if isinstance(each, nn.ModuleList) else []
        alike = len(members) > 1 and all(type(member) is type(members[0]) for member in members)
        if alike and any(True for _ in members[0].children()):
            return f"{name}.{place}", members[place]
    raise AssertionError("no stack")


def unhook(block: nn.Module) -> None:
    """What comes in goes on: the block's answer is overwritten by its input."""
    replace_state(block, lambda given, _answer: given)


def cut(block: nn.Module) -> None:
    """Its answer is detached."""
    replace_state(block, lambda _given, answer: answer.detach())


def replace_state(block: nn.Module, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
    inner = block.forward

    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = inner(hidden_states, *args, **kwargs)
        if isinstance(output, tuple):
            return (choose(hidden_states, output[0]), *output[1:])
        return choose(hidden_states, output)

    block.forward = types.MethodType(forward, block)


@pytest.mark.parametrize("name", CHOSEN)
def test_an_unhooked_block_is_named(name: str) -> None:
    model = MODELS[name].build()
    path, block = block_of(model, 0)
    unhook(block)
    found = ts.check(model, only=["dead-parameters"])["dead-parameters"]
    assert found.status == "fail", found.summary
    assert found.module is not None
    assert found.module.startswith(path)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_cut_path_is_named(name: str) -> None:
    model = MODELS[name].build()
    path, block = block_of(model, 1)
    cut(block)
    found = ts.check(model, only=["gradient-flow"])["gradient-flow"]
    assert found.status == "fail", found.summary
    assert found.module is not None
    assert found.module.startswith(path)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_spoilt_matrix_is_named(name: str) -> None:
    model = MODELS[name].build()
    path, block = block_of(model, 1)
    weight = next(each for each in block.parameters() if each.dim() > 1)
    with torch.no_grad():
        weight.fill_(0.5)
    found = ts.check(model, only=["parameter-initialization"])["parameter-initialization"]
    assert found.status == "fail", found.summary
    assert found.module is not None
    assert found.module.startswith(path)
