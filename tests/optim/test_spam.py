"""Spikes are told from noise, moments are reset when it is said, and one counter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchstone._errors import ConfigError, UsageError
from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import build_optimizer
from torchstone.optim.spam import ALL, AdamWSPAM, clip_by_history, z_score


def optimizer_of(weight: nn.Parameter, name: str = "adamwspam", **knobs: Any) -> Any:
    module = nn.Module()
    module.weight = weight
    return build_optimizer(module, OptimConfig(name=name, learning_rate=0.01, **knobs))


def test_noise_makes_no_spikes() -> None:
    """The rule of 2025, two standard deviations, fires on some 6 % of the steps of independent noise."""
    torch.manual_seed(0)
    norms = torch.randn(4000, 50).norm(dim=1)
    fired = {2.0: 0, 5.0: 0}
    for step in range(200, len(norms)):
        z = float(z_score(norms[step], norms[step - 100 : step].flip(0), torch.tensor(100.0)))
        fired = {limit: count + (z > limit) for limit, count in fired.items()}
    assert fired[2.0] > 0.015 * 3800
    assert fired[5.0] == 0


def test_a_spike_damps_the_moments() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(64))
    optimizer = optimizer_of(weight, spam_theta=0.0)
    for _ in range(30):
        weight.grad = torch.randn(64)
        optimizer.step()
    state = optimizer.state[weight]
    m, v = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
    weight.grad = gradient = 30 * torch.randn(64)
    optimizer.step()
    assert torch.allclose(state["exp_avg"], 0.9 * 0.5 * m + 0.1 * gradient, atol=1e-5)
    assert torch.allclose(state["exp_avg_sq"], 0.999 * 0.9 * v + 0.001 * gradient**2, atol=1e-4)


def test_steps_are_counted_once_and_warm_up_ends() -> None:
    """Moments are as after one step exactly every `interval` steps; at the full rate after the warm-up."""
    weight = nn.Parameter(torch.zeros(3))
    optimizer = optimizer_of(weight, spam_interval=10, spam_warmup=4, weight_decay=0.0)
    cleared, moved = [], []
    for step in range(1, 41):
        before = weight.detach().clone()
        weight.grad = torch.ones(3)
        optimizer.step()
        if step > 1 and float(optimizer.state[weight]["step"]) == 1.0:
            cleared.append(step)
        moved.append(float((before - weight.detach()).mean()))
    assert cleared == [10, 20, 30, 40]
    assert optimizer.state[ALL]["step"] == 40
    # A constant gradient moves a weight by the learning rate.
    assert moved[:9] == pytest.approx([0.01] * 9, rel=1e-3)
    assert moved[9] == pytest.approx(1e-5, rel=1e-2)
    assert moved[14:19] == pytest.approx([0.01] * 5, rel=1e-3)


def test_ordinary_gradients_are_not_clipped_after_a_reset() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(1000))
    optimizer = optimizer_of(weight, spam_interval=20, spam_warmup=2)
    for _ in range(60):
        weight.grad = gradient = torch.randn(1000).clamp(-3, 3) + 4.0
        optimizer.prepare_gradients()
        assert torch.equal(weight.grad, gradient)
        optimizer.step()


def test_what_has_no_history_is_not_clipped() -> None:
    gradient, moment = torch.tensor([5.0, -5.0, 5.0, -0.1]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    clip_by_history(gradient, moment, 4.0)
    assert gradient.tolist() == pytest.approx([5.0, -2.0, 2.0, -0.1])


def test_a_weight_that_a_reset_finds_without_a_gradient_learns_on() -> None:
    module = nn.Module()
    module.always, module.seldom = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    config = OptimConfig(name="adamwspam", spam_interval=5, spam_warmup=1, learning_rate=0.01)
    optimizer = build_optimizer(module, config)
    for step in range(1, 9):
        module.always.grad = torch.ones(3)
        module.seldom.grad = torch.ones(3) if step in (1, 2, 8) else None
        optimizer.step()
    assert bool(module.seldom.isfinite().all()) and float(module.seldom.detach().max()) < -0.02
    module.always.grad = module.seldom.grad = None
    optimizer.step()


def test_large_and_strided_tensors_are_clipped_alike() -> None:
    torch.manual_seed(0)
    gradient, moment = torch.randn(300, 500), torch.rand(300, 500)
    expected = torch.minimum(gradient.abs(), (2.0 * moment).sqrt()) * gradient.sign()
    turned = gradient.T.contiguous().T
    for each in (gradient, turned):
        clip_by_history(each, moment, 2.0)
        assert torch.allclose(each, expected)


def test_a_warm_up_that_never_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="never ends"):
        optimizer_of(nn.Parameter(torch.zeros(2)), spam_interval=100, spam_warmup=100)


def test_another_optimizers_state_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(2))
    other = torch.optim.AdamW([weight])
    optimizer = optimizer_of(weight)
    assert isinstance(optimizer, AdamWSPAM)
    with pytest.raises(UsageError, match="none of AdamWSPAM"):
        optimizer.load_state_dict(other.state_dict())
