"""Host, device and scaled updates: the same weights where all is finite, none where it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchstone.train.step import Recipe, StepOutcome, train_step
from torchstone.train.update import DeviceUpdate, Gradients, HostUpdate, ScaledUpdate, Update, clip_factor

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[Gradients], Update]] = {
    "host": HostUpdate,
    "device": lambda gradients: DeviceUpdate(gradients, CPU, sticky=True),
    "scaled": lambda gradients: ScaledUpdate(gradients, CPU),
}


class Squares:
    """loss = sum of (x w - 1)^2; a batch is a tensor of x."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def count(self, batch: Tensor) -> int:
        return batch.numel()

    def loss_sum(self, batch: Tensor) -> Tensor:
        return ((batch[:, None] * self.weight - 1) ** 2).sum()

    def measure(self, batch: Tensor, observe: Any = None) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(batch)}


def run(name: str, batches: list[list[float]], max_norm: float | None) -> tuple[Tensor, list[StepOutcome]]:
    weight = nn.Parameter(torch.tensor([0.5, -0.25, 2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    recipe = Recipe(MAKERS[name](Gradients([weight], max_norm)), contextlib.nullcontext)
    outcomes = [
        train_step([torch.tensor(batch)], Squares(weight), optimizer, 0.1, recipe) for batch in batches
    ]
    return weight.detach().clone(), outcomes


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=4), min_size=1, max_size=4),
    max_norm=st.sampled_from([None, 0.05, 1.0]),
)
def test_all_updates_agree(batches: list[list[float]], max_norm: float | None) -> None:
    host, told = run("host", batches, max_norm)
    for name in ("device", "scaled"):
        weight, outcomes = run(name, batches, max_norm)
        torch.testing.assert_close(weight, host, rtol=1e-6, atol=1e-6)
        assert all(each.update.was_made for each in outcomes)
        for mine, theirs in zip(outcomes, told, strict=True):
            torch.testing.assert_close(mine.update.norm, theirs.update.norm)


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_bad_step_changes_nothing(name: str) -> None:
    before, _ = run(name, [[1.0]], 1.0)
    after, outcomes = run(name, [[1.0], [float("nan")]], 1.0)
    assert torch.equal(before, after)
    assert [each.update.was_made for each in outcomes] == [True, False]
    assert not outcomes[1].update.overflow


def test_the_device_stays_where_it_was_until_forgiven() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    update = DeviceUpdate(Gradients([weight], None), CPU, sticky=True)
    recipe = Recipe(update, contextlib.nullcontext)

    def step(value: float) -> bool:
        return train_step([torch.tensor([value])], Squares(weight), optimizer, 0.1, recipe).update.was_made

    assert step(2.0)
    before, state = weight.detach().clone(), float(optimizer.state[weight]["step"])
    assert not step(float("inf")) and not step(2.0), "sticky"
    assert torch.equal(weight, before) and float(optimizer.state[weight]["step"]) == state
    update.forgive()
    assert step(2.0) and not torch.equal(weight, before)


def test_fp16_loses_a_step_that_overflows_and_shrinks_its_scale() -> None:
    weight = nn.Parameter(torch.ones(1))
    update = ScaledUpdate(Gradients([weight], None), CPU)
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    recipe = Recipe(update, contextlib.nullcontext)
    before = update.scaler.get_scale()

    class Large(Squares):
        def loss_sum(self, batch: Tensor) -> Tensor:
            return (self.weight * 1e35).sum()

    found = train_step([torch.ones(1)], Large(weight), optimizer, 0.1, recipe)
    assert found.update.overflow and not found.update.was_made
    assert torch.equal(weight.detach(), torch.ones(1)) and update.scaler.get_scale() < before


@given(norm=st.floats(1e-6, 1e6), limit=st.floats(1e-3, 1e3))
def test_clipping_keeps_the_norm_below_the_limit(norm: float, limit: float) -> None:
    assert norm * clip_factor(norm, limit) <= limit * (1 + 1e-6)
    assert clip_factor(norm, None) == 1.0


def test_parameters_of_several_formats_share_one_norm() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    unused = nn.Parameter(torch.ones(5))
    for each in parameters:
        each.grad = torch.full_like(each, 3.0)
    _, norms, total = Gradients([parameters[0], unused, parameters[1]], None).measure()
    assert set(norms) == {0, 2}
    assert float(total) == pytest.approx((4 * 9.0) ** 0.5)
