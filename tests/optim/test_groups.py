"""Weight decay goes to matrices; norms, biases and embeddings are spared; every parameter once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchstone._errors import ModelError, UsageError
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import parameter_groups, parameter_roles
from torchstone.optim.registry import build_optimizer


class Tied(nn.Module):
    """The head comes first, so that the shared matrix is first met as a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 9, bias=False)
        self.tokens = nn.Embedding(9, 4)
        self.head.weight = self.tokens.weight
        self.pos_embed = nn.Parameter(torch.zeros(1, 7, 4))
        self.mix = nn.Linear(4, 4)
        self.norm = nn.LayerNorm((4, 4))


def test_roles() -> None:
    assert parameter_roles(Tied()) == {
        "pos_embed": "embedding",
        "head.weight": "embedding",
        "mix.weight": "matrix",
        "mix.bias": "vector",
        "norm.weight": "norm",
        "norm.bias": "norm",
    }


def test_each_trainable_parameter_is_in_one_group() -> None:
    module = Tied()
    module.mix.bias.requires_grad_(False)
    groups = parameter_groups(module, 0.1)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    expected = [id(parameter) for parameter in module.parameters() if parameter.requires_grad]
    assert sorted(held) == sorted(expected)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [id(parameter) for parameter in groups[0]["params"]] == [id(module.mix.weight)]


def test_decay_reaches_only_matrices() -> None:
    module = Tied()
    before = {name: value.clone() for name, value in module.named_parameters()}
    optimizer = build_optimizer(module, OptimConfig(learning_rate=0.1, weight_decay=0.5))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = [name for name, value in module.named_parameters() if not torch.equal(value, before[name])]
    assert changed == ["mix.weight"]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ModelError, match="no trainable parameter"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def test_unknown_optimizer_suggests() -> None:
    config = OptimConfig.model_construct(**{**OptimConfig().model_dump(), "name": "adamv"})
    with pytest.raises(UsageError, match="adamw"):
        build_optimizer(nn.Linear(2, 2), config)
