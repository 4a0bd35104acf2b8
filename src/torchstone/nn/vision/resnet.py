"""ResNets for small images (He et al. 2015, arXiv:1512.03385).

Depths and widths are the paper's: four stages of basic blocks (ResNet-18) or of bottlenecks (ResNet-50). For
32x32 images the stem is one 3x3 convolution without pooling, as in the paper's own CIFAR networks; shortcuts
that change the shape are 1x1 convolutions (option B). A bottleneck halves the image in its 3x3 convolution,
not in the 1x1 before it, as every library does today.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.vision.images import require_images

if TYPE_CHECKING:
    from jaxtyping import Float


class ResNet(nn.Module):
    """`(B, channels, H, W) -> (B, classes)`, meant for 32x32; a stage is twice as wide as the one before."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        num_classes: int = 10,
        num_channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.stem = nn.Sequential(_conv(3, num_channels, width), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        width_in = width
        for stage, depth in enumerate(depths):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(block(width_in, width << stage, stride))
                width_in = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes"]:
        require_images(pixel_values, self.num_channels, None)
        maps = self.blocks(self.stem(pixel_values))
        return self.classifier(maps.mean(dim=(2, 3)))


class ResNet18(ResNet):
    def __init__(self, num_classes: int = 10, num_channels: int = 3, width: int = 64) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), num_classes, num_channels, width)


class ResNet50(ResNet):
    def __init__(self, num_classes: int = 10, num_channels: int = 3, width: int = 64) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes, num_channels, width)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(3, width_in, width, stride), nn.BatchNorm2d(width))
        self.second = nn.Sequential(_conv(3, width, width), nn.BatchNorm2d(width))
        self.shortcut = _shortcut(width_in, width, stride)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3 there, 1x1 to four times that, and a shortcut around them."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        wide = width * self.expansion
        self.first = nn.Sequential(_conv(1, width_in, width), nn.BatchNorm2d(width))
        self.second = nn.Sequential(_conv(3, width, width, stride), nn.BatchNorm2d(width))
        self.third = nn.Sequential(_conv(1, width, wide), nn.BatchNorm2d(wide))
        self.shortcut = _shortcut(width_in, wide, stride)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        narrow = F.relu(self.second(F.relu(self.first(x))))
        return F.relu(self.third(narrow) + self.shortcut(x))


def _shortcut(width_in: int, width: int, stride: int) -> nn.Module:
    """What comes in as it is, or brought to the shape of what goes out."""
    if stride == 1 and width_in == width:
        return nn.Identity()
    return nn.Sequential(_conv(1, width_in, width, stride), nn.BatchNorm2d(width))


def _conv(size: int, width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel_size=size, stride=stride, padding=size // 2, bias=False)
