"""Each |g| <= sqrt(theta v), by rows on a CPU and by lists elsewhere: the same, and nothing is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchstone.optim import element_clip
from torchstone.optim.element_clip import _clip_lists, clip_by_history

Clip = Callable[[list[Tensor], list[Tensor], Tensor], None]
each_way = pytest.mark.parametrize("clip", [clip_by_history, _clip_lists], ids=["rows", "lists"])


@each_way
def test_what_exceeds_its_history_is_clipped_and_what_has_none_is_not(clip: Clip) -> None:
    gradient, moment = torch.tensor([5.0, -5.0, 5.0, -0.1]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    clip([gradient], [moment], torch.tensor([4.0]))
    assert gradient.tolist() == pytest.approx([5.0, -2.0, 2.0, -0.1])


@each_way
def test_tensors_of_any_shape_are_clipped_each_by_its_theta(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(element_clip, "_BLOCK", 64)  # several blocks in a tensor
    torch.manual_seed(0)
    shapes = [(30, 50), (7,), (), (4, 3, 3, 3), (2, 200)]
    gradients, moments = [torch.randn(shape) for shape in shapes], [torch.rand(shape) for shape in shapes]
    gradients[0], moments[0] = gradients[0].T, moments[0].T
    thetas = torch.linspace(0.5, 4.0, len(shapes))
    expected = [
        torch.minimum(g.abs(), (theta * v).sqrt()) * g.sign()
        for g, v, theta in zip(gradients, moments, thetas, strict=True)
    ]
    clip(gradients, moments, thetas)
    for g, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(g, wanted)


@each_way
def test_rows_within_their_limits_keep_every_bit(clip: Clip) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(20, 30)
    before, moment = gradient.clone(), gradient.square() / 3.9
    moment[3, 4] = gradient[3, 4].square() / 8.0
    clip([gradient], [moment], torch.tensor([4.0]))
    assert (gradient != before).nonzero().tolist() == [[3, 4]]


@each_way
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_not_hidden(clip: Clip, bad: float) -> None:
    gradients, moments = [torch.ones(3, 4), torch.ones(2)], [torch.ones(3, 4), torch.ones(2)]
    gradients[0][1, 2] = bad
    clip(gradients, moments, torch.tensor([4.0, 4.0]))
    assert not bool(gradients[0].isfinite().all())
    assert torch.equal(gradients[1], torch.ones(2))


@each_way
def test_a_spike_too_large_to_be_squared_is_clipped(clip: Clip) -> None:
    gradient = torch.tensor([1e30, 1.0])
    clip([gradient], [torch.ones(2)], torch.tensor([4.0]))
    assert gradient.tolist() == [2.0, 1.0]
