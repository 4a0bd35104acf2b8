"""Laws of every registered optimizer: it descends, it resumes bit for bit, it leaves frozen weights alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import OPTIMIZERS, OptimizerRecord, build_optimizer

each_optimizer = pytest.mark.parametrize("record", OPTIMIZERS, ids=OPTIMIZERS.names())


def model_and_loss() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(32, 6)
    return module, x, x[:, :1] * x[:, 1:2]


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, number: int) -> float:
    loss = torch.tensor(0.0)
    for _ in range(number):
        optimizer.zero_grad()
        loss = ((module(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def config_for(record: OptimizerRecord) -> OptimConfig:
    return OptimConfig.model_construct(
        **{**OptimConfig().model_dump(), "name": record.name, "learning_rate": 0.02}
    )


@each_optimizer
def test_descends(record: OptimizerRecord) -> None:
    module, x, y = model_and_loss()
    optimizer = build_optimizer(module, config_for(record))
    before = steps(module, optimizer, x, y, 1)
    assert steps(module, optimizer, x, y, 60) < 0.5 * before


@each_optimizer
def test_resumes_bit_for_bit(record: OptimizerRecord, tmp_path_factory: pytest.TempPathFactory) -> None:
    module, x, y = model_and_loss()
    optimizer = build_optimizer(module, config_for(record))
    steps(module, optimizer, x, y, 3)

    # Through a file, because that is what happens to a checkpoint.
    file = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save(optimizer.state_dict(), file)
    twin = copy.deepcopy(module)
    resumed = build_optimizer(twin, config_for(record))
    resumed.load_state_dict(torch.load(file, weights_only=True))

    steps(module, optimizer, x, y, 5)
    steps(twin, resumed, x, y, 5)
    for name, value in module.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


@each_optimizer
def test_frozen_weights_stay(record: OptimizerRecord) -> None:
    module, x, y = model_and_loss()
    frozen = module[0]
    frozen.requires_grad_(False)
    before = copy.deepcopy(frozen.state_dict())
    steps(module, build_optimizer(module, config_for(record)), x, y, 3)
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in before.items())


@each_optimizer
def test_says_where_it_comes_from(record: OptimizerRecord) -> None:
    assert record.summary and record.source


def test_configuration_offers_what_is_registered() -> None:
    extra = OptimConfig.model_fields["name"].json_schema_extra
    assert isinstance(extra, dict)
    assert extra["choices"] == OPTIMIZERS.names()
