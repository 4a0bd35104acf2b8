"""Laws of the smaller model: its units of zeros are gone, and it answers as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone._errors import ModelError
from torchstone._seeds import preserved_rng
from torchstone.nn.zoo import ZOO
from torchstone.optim.config import PruneConfig
from torchstone.optim.pruning.selection import keep_best_units
from torchstone.optim.pruning.shrink import Shrunk, shrink
from torchstone.optim.pruning.targets import channel_units, head_units, prunable

Answer = Callable[[nn.Module], Tensor]
SMALL = {"d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}


def model(name: str, **sizes: Any) -> tuple[nn.Module, Answer]:
    """A model in double precision whose vectors are all awake, and how it answers an example."""
    with preserved_rng(0):
        module = ZOO.get(name).build(sizes)[0].double().eval()
        for each in (*module.parameters(), *module.buffers()):
            if each.ndim == 1:
                each.data.add_(torch.rand_like(each))
        if name.startswith("gpt"):
            ids = torch.randint(0, 50, (3, 7))
            return module, lambda own: own(ids).logits
        images = torch.rand(3, 1 if name == "lenet5" else 3, 32, 32, dtype=torch.float64)
        return module, lambda own: own(images)


def pruned(module: nn.Module, pattern: str, only: str = "") -> nn.Module:
    """Every second unit of weight is made zero, by magnitude."""
    config = PruneConfig(method="magnitude", pattern=pattern)
    for name, weight in prunable(module, config).items():
        if only in name and pattern == "channels":
            mask = keep_best_units(
                {name: weight.detach().abs()}, channel_units({name: weight}), weight.numel() // 2
            )
            weight.data.mul_(mask[name])
    if pattern == "heads":
        weights = prunable(module, config)
        scores = {name: each.detach().abs() for name, each in weights.items()}
        mask = keep_best_units(
            scores, head_units(module, weights), sum(map(Tensor.numel, scores.values())) // 2
        )
        for name, weight in weights.items():
            weight.data.mul_(mask[name])
    return module


def require_equal(module: nn.Module, small: Shrunk, answer: Answer) -> None:
    with torch.no_grad():
        before, after = answer(module), answer(small.module)
    assert torch.allclose(before, after, rtol=1e-12, atol=1e-12)
    assert small.difference == float((before - after).abs().max())


def test_channels_go_through_convolution_norm_pooling_and_the_flat_layer() -> None:
    module, answer = model("lenet5")
    small = shrink(pruned(module, "channels"), answer)
    require_equal(module, small, answer)
    assert small.removed == {"features.0": 3, "features.4": 8, "classifier.1": 60, "classifier.3": 42}
    assert list(small.kept) == ["classifier.5"], "what nothing reads is the answer"
    halves = nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.BatchNorm2d(3), nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8),
        nn.Linear(8 * 25, 60), nn.Linear(60, 42), nn.Linear(42, 10)
    )  # fmt: skip
    assert small.parameters == (61_750, sum(each.numel() for each in halves.parameters()))
    assert sum(each.numel() for each in module.parameters()) == 61_750, "the model itself stays"


@pytest.mark.parametrize("name", ["gpt-nano", "vit-tiny"])
def test_whole_heads_go_and_the_mlp_stays(name: str) -> None:
    module, answer = model(name, **SMALL)
    small = shrink(pruned(module, "heads"), answer)
    require_equal(module, small, answer)
    assert sum(small.removed.values()) == 4, "half of two blocks of four heads"
    width, channels = 4, 16
    head = 3 * width * (channels + 1) + channels * width
    assert small.parameters[0] - small.parameters[1] == 4 * head


@pytest.mark.parametrize("name", ["gpt-nano", "vit-tiny"])
def test_channels_of_an_mlp_leave_their_constant_behind(name: str) -> None:
    module, answer = model(name, **SMALL)
    small = shrink(pruned(module, "channels", only="mlp"), answer)
    require_equal(module, small, answer)
    assert list(small.removed.values()) == [12, 12]
    assert all("mix" in why for why in small.kept.values()), (
        "channels of the residual stream are read by norms"
    )


def test_what_is_no_constant_stays_and_is_told() -> None:
    """A padded convolution reads zeros at the border and the constant inside."""
    with preserved_rng(0):
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(72, 2)
        )
        images = torch.rand(2, 1, 8, 8)
    module[0].weight.data[1] = 0.0
    small = shrink(module, lambda own: own(images))
    assert small.removed == {}
    assert "no constant" in small.kept["0"]
    module[0].bias.data[1] = 0.0
    assert shrink(module, lambda own: own(images)).removed == {"0": 1}


def test_the_answer_itself_keeps_its_channels() -> None:
    module = nn.Linear(3, 4)
    module.weight.data[2] = 0.0
    small = shrink(module, lambda own: own(torch.ones(2, 3)))
    assert small.parameters == (16, 16)
    assert "output" in small.kept[""]


class OfItsOwnSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(-1, 6).relu())


def test_code_that_knows_its_sizes_is_refused() -> None:
    module = OfItsOwnSize()
    module.first.weight.data[0] = 0.0
    with pytest.raises(ModelError, match="sizes of its own"):
        shrink(module, lambda own: own(torch.ones(2, 3)))
