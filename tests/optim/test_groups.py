"""Weight decay goes to matrices; norms, biases and embeddings are spared; every parameter once."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from torchstone._errors import ConfigError, ModelError, UsageError
from torchstone.optim.config import OptimConfig
from torchstone.optim.groups import parameter_groups, parameter_roles
from torchstone.optim.registry import OPTIMIZERS, OptimizerRecord, build_optimizer
from torchstone.optim.structure import part_of
from torchstone.train.step import Recipe, train_step
from torchstone.train.update import Gradients, HostUpdate


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


PARTS = {
    "blocks.3.attention.qkv.weight": "attention",
    "transformer.h.0.attn.c_proj.bias": "attention",
    "layers.1.self_attn.q_proj.weight": "attention",
    "blocks.0.mlp.up.weight": "mlp",
    "model.layers.0.mlp.gate_proj.weight": "mlp",
    "encoder.layers.0.feed_forward.0.weight": "mlp",
    "blocks.0.attention.alpha": "coupling",
    "blocks.0.mlp.reciprocal.weight": "coupling",
    "lm_head.weight": "head",
    "blocks.0.head.weight": "other",
    "token_embedding.weight": "other",
    "blocks.0.attention_norm.weight": "attention",
}


@pytest.mark.parametrize(("name", "part"), PARTS.items())
def test_parts_by_name(name: str, part: str) -> None:
    assert part_of(name) == part


class Parted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(4, 4)
        self.mlp = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("record", OPTIMIZERS, ids=OPTIMIZERS.names())
def test_parts_learn_at_their_own_rate_through_the_schedule(record: OptimizerRecord) -> None:
    """A part with twice the rate goes as the whole would at twice the rate; the others as without it."""

    def learned(learning_rate: float, rate_mlp: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        module = Parted()
        optimizer = build_optimizer(module, OptimConfig(name=record.name, rate_mlp=rate_mlp))
        recipe = Recipe(HostUpdate(Gradients(list(module.parameters()), None)), contextlib.nullcontext)
        for _ in range(3):
            train_step([torch.ones(1, 4)], OfOnes(module), optimizer, learning_rate, recipe)
        return module.state_dict()

    mixed, plain, doubled = learned(0.125, 2.0), learned(0.125, 1.0), learned(0.25, 1.0)
    for name, value in mixed.items():
        assert torch.equal(value, (doubled if name.startswith("mlp") else plain)[name]), name
        assert not torch.equal(plain[name], doubled[name]), name


class OfOnes:
    """A loss whose gradient is one everywhere."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def count(self, batch: torch.Tensor) -> int:
        return 1

    def loss_sum(self, batch: torch.Tensor) -> torch.Tensor:
        return sum(each.sum() for each in self.module.parameters())

    def measure(self, batch: torch.Tensor, observe: object = None) -> dict[str, torch.Tensor]:
        return {"loss": self.loss_sum(batch)}


def test_coupling_decays_on_its_own() -> None:
    module = Parted()
    module.coupling = nn.Linear(4, 4, bias=False)
    groups = parameter_groups(module, 0.01, decays={"coupling": 0.005})
    assert {group["weight_decay"]: len(group["params"]) for group in groups} == {0.01: 3, 0.005: 1, 0.0: 3}


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="coupling"):
        build_optimizer(Parted(), OptimConfig(rate_coupling=0.9))
