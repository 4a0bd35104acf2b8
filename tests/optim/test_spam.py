"""Spikes are told from noise, moments are reset when it is said, and one counter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchstone._errors import ConfigError, UsageError
from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import build_optimizer
from torchstone.optim.spam import ALL, AdamWSPAM, damp, z_score


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


def test_weights_that_have_no_gradient_at_a_reset_or_no_elements_are_no_trouble() -> None:
    module = nn.Module()
    module.always, module.seldom = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    module.nothing = nn.Parameter(torch.zeros(0, 5))
    config = OptimConfig(name="adamwspam", spam_interval=5, spam_warmup=1, learning_rate=0.01)
    optimizer = build_optimizer(module, config)
    for step in range(1, 9):
        module.always.grad, module.nothing.grad = torch.ones(3), torch.zeros(0, 5)
        module.seldom.grad = torch.ones(3) if step in (1, 2, 8) else None
        optimizer.step()
    assert bool(module.seldom.isfinite().all()) and float(module.seldom.detach().max()) < -0.02
    module.always.grad = module.seldom.grad = None
    optimizer.step()


def test_the_norm_that_a_loop_measured_is_the_one_that_is_judged() -> None:
    """The engine measures anyway; what it tells replaces a second measurement."""
    weight = nn.Parameter(torch.zeros(4))
    optimizer = optimizer_of(weight)
    for told in (None, torch.tensor(7.0)):
        weight.grad = torch.ones(4)
        if told is not None:
            optimizer.observe_norm(told)
        optimizer.step()
    assert optimizer.state[ALL]["norms"][:3].tolist() == [7.0, 2.0, 0.0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("whether", [True, False])
def test_moments_are_damped_where_the_device_says_so(
    whether: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchstone.optim.spam.has_fused", lambda device: fused)
    tensors = [torch.randn(5, 3), torch.randn(()), torch.randn(4, dtype=torch.float64)]
    expected = [each * (0.9 if whether else 1.0) for each in tensors]
    damp(tensors, 0.1, torch.tensor(whether))
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(tensors, expected, strict=True))


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
