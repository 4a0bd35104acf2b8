"""The image models have the sizes of their papers, train, and say what shape they want."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone._errors import ConfigError, DataError
from torchstone.nn.vision.lenet5 import LeNet5
from torchstone.nn.vision.resnet import ResNet18, ResNet50
from torchstone.nn.vision.vit import ViT, ViTConfig


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    assert count(LeNet5(batch_norm=False)) == 61_706
    assert count(LeNet5()) == 61_706 + 2 * (6 + 16)
    with torch.device("meta"):
        assert count(ResNet18()) == 11_173_962
        # torchvision's resnet50, with a 3x3 stem for the 7x7 one and 10 classes for 1,000.
        stem, classes = (7 * 7 - 3 * 3) * 3 * 64, (1000 - 10) * (2048 + 1)
        assert count(ResNet50()) == 25_557_032 - stem - classes == 23_520_842
        assert count(ViT(ViTConfig())) == 5_362_762
        # ViT-B/16 at 224 pixels, a figure every library agrees on.
        base = ViTConfig(
            image_size=224, patch_size=16, d_model=768, num_layers=12, num_heads=12, num_classes=1000
        )
        assert count(ViT(base)) == 86_567_656


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (LeNet5, 1),
        (lambda: LeNet5(num_channels=3, batch_norm=False), 3),
        (lambda: ViT(ViTConfig(d_model=24, num_layers=2, num_heads=2)), 3),
    ],
    ids=["lenet5", "lenet5-plain", "vit"],
)
def test_every_parameter_learns(make: type[nn.Module], channels: int) -> None:
    torch.manual_seed(0)
    model = make()
    images, labels = torch.randn(8, channels, 32, 32), torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("make", "maps"), [(ResNet18, 64), (ResNet50, 256)])
def test_a_resnet_keeps_its_maps_and_learns(make: type[ResNet18 | ResNet50], maps: int) -> None:
    torch.manual_seed(0)
    model = make(num_classes=4, width=8)
    assert model.blocks(model.stem(torch.randn(1, 3, 32, 32))).shape == (1, maps, 4, 4)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(each.grad is not None and each.grad.any() for each in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_a_bottleneck_is_narrow_inside_and_passes_its_input_on() -> None:
    torch.manual_seed(0)
    block = ResNet50(width=8).blocks[1].eval()
    assert [block.first[0].out_channels, block.second[0].out_channels] == [8, 8]
    nn.init.zeros_(block.third[1].weight)
    x = torch.rand(2, 32, 6, 6)
    assert torch.equal(block(x), x)


@torch.no_grad()
def test_vit_tells_one_place_from_another() -> None:
    torch.manual_seed(0)
    model = ViT(ViTConfig(d_model=24, num_layers=1, num_heads=2)).eval()
    image = torch.randn(1, 3, 32, 32)
    moved = image.roll(4, dims=-1)  # by one patch: the same set of tokens, in another order
    assert not torch.allclose(model(image), model(moved), atol=1e-6)


def test_wrong_images_are_named() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 3, 32, 32\), expected \(batch, 1, 32, 32\)"):
        LeNet5()(torch.randn(2, 3, 32, 32))
    with pytest.raises(DataError, match=r"expected \(batch, 3, 32, 32\)"):
        ViT(ViTConfig(d_model=24, num_layers=1, num_heads=2))(torch.randn(1, 3, 28, 28))
    with pytest.raises(ConfigError, match="patches of 5"):
        ViTConfig(patch_size=5)
    with pytest.raises(ConfigError, match="num_heads=5"):
        ViTConfig(num_heads=5)
