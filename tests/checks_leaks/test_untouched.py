"""A checked model comes back as it was: values, gradients, modes, hooks, attributes, random state.

Also when a check raises, trains the model, or the model itself keeps state.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import leaks
from zoo.leak_cases import CASES
from zoo.tiny import TinyEncoder, TinyGPT, with_attention, with_block

import torchstone as ts
from torchstone.checks.context import Context
from torchstone.checks.registry import CHECKS, Check
from torchstone.tracking.records import CheckResult


def _image(model: nn.Module) -> dict[str, Any]:
    """Everything that a user could notice, as plain values."""
    hooks = [name for name in vars(model) if name.endswith("_hooks")]
    return {
        "bytes": {name: value.numpy().tobytes() for name, value in _everything(model).items()},
        "identity": [id(each) for each in model.parameters()],
        "dtype": [each.dtype for each in model.parameters()],
        "requires_grad": [each.requires_grad for each in model.parameters()],
        "gradients": [each.grad.numpy().tobytes() for each in model.parameters() if each.grad is not None],
        "gradient objects": [id(each.grad) for each in model.parameters()],
        "training": [each.training for each in model.modules()],
        "hooks": [[len(vars(each)[name] or ()) for name in hooks] for each in model.modules()],
        "attributes": [sorted(vars(each)) for each in model.modules()],
        "lists": [
            len(value) for each in model.modules() for value in vars(each).values() if isinstance(value, list)
        ],
        "numbers": [
            {name: value for name, value in vars(each).items() if isinstance(value, (int, float))}
            for each in model.modules()
        ],
    }  # fmt: skip


def _everything(model: nn.Module) -> dict[str, Tensor]:
    tensors = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    for name, each in model.named_modules():
        tensors |= {f"{name}.{key}": value for key, value in vars(each).items() if isinstance(value, Tensor)}
    return tensors


def _world() -> tuple[Any, ...]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


def _used(build: Callable[[], nn.Module]) -> nn.Module:
    """A model in the middle of somebody's work: gradients, mixed modes, frozen weights, a hook."""
    model = build()
    model.train()
    for number, each in enumerate(model.parameters()):
        each.grad = torch.full_like(each, 0.5) if number % 2 else None
        each.requires_grad_(number % 5 != 3)
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 0
    next(iter(model.children())).register_forward_hook(lambda *_: None)
    return model


MODELS = {
    "gpt": TinyGPT,
    "encoder": TinyEncoder,
    "keeps state": leaks.Counting,
    "keeps a list": with_block(0, leaks.HistoryBlock),
    "keeps a tensor": with_attention(2, leaks.Remembering),
    "moves a buffer": with_block(1, leaks.block_with_mlp(lambda: leaks.Averaging(True))),
    "batch norm": with_block(1, leaks.block_with_mlp(lambda: leaks.BatchNormOverRows(True))),
    "not a number": leaks.NanAhead,
    "stays in training": with_block(2, leaks.block_with_mlp(lambda: leaks.AlwaysTraining(0.1))),
}


@pytest.mark.parametrize("name", MODELS)
def test_leak_checks_leave_no_trace(name: str) -> None:
    model = _used(MODELS[name])
    before, world = _image(model), _world()
    report = ts.check(model, only=sorted({case.check for case in CASES}))
    assert _image(model) == before
    assert _world() == world
    assert len(report) == 9


def _vandalise(context: Context) -> CheckResult:
    """Does everything that a check may do and then raises."""
    model = context.module
    torch.manual_seed(99)
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for each in model.parameters():
        each.requires_grad_(True)
    output = context.forward(context.batch(), train=True, grad=True)
    output.main.float().sum().backward()
    optimizer.step()
    model.register_buffer("scratch", torch.zeros(3))
    model.note = ["something"]
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    raise RuntimeError("vandal")


@pytest.fixture
def vandal() -> Any:
    check = CHECKS.add(Check("vandal", tier=1, title="", proves="", run=_vandalise))
    yield check
    del CHECKS._records["vandal"]


@pytest.mark.parametrize("name", MODELS)
def test_a_check_that_trains_and_raises_leaves_no_trace(name: str, vandal: Check) -> None:
    model = _used(MODELS[name])
    before, world = _image(model), _world()
    report = ts.check(model, only=["vandal", "causal-leak"])
    assert report["vandal"].status == "error"
    assert report["vandal"].why == "RuntimeError: vandal"
    assert _image(model) == before
    assert _world() == world


def test_what_one_check_breaks_the_next_does_not_see(vandal: Check) -> None:
    alone = ts.check(TinyGPT(), only=["causal-leak", "state-leak"]).to_dict()["checks"]
    after = ts.check(TinyGPT(), only=["vandal", "causal-leak", "state-leak"]).to_dict()["checks"]
    strip = [{**each, "seconds": 0} for each in alone]
    assert strip == [{**each, "seconds": 0} for each in after if each["id"] != "vandal"]


def test_inside_no_grad_and_inference_mode() -> None:
    model = TinyGPT()
    with torch.no_grad():
        assert ts.check(model, only=["causal-leak"]).verdict == "pass"
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert ts.check(model, only=["causal-leak"]).verdict == "pass"
