"""ResNet-18 for small images (He et al. 2015, arXiv:1512.03385).

The four stages of two basic blocks and the widths 64 to 512 are the paper's ResNet-18. For 32x32 images the
stem is one 3x3 convolution without pooling, as in the paper's own CIFAR networks; shortcuts that change the
shape are 1x1 convolutions (option B).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.nn.vision.images import require_images

if TYPE_CHECKING:
    from jaxtyping import Float

WIDTHS = (64, 128, 256, 512)


class ResNet18(nn.Module):
    """`(B, channels, H, W) -> (B, classes)`, meant for 32x32."""

    def __init__(self, num_classes: int = 10, num_channels: int = 3) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.stem = nn.Sequential(_conv3x3(num_channels, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        blocks: list[nn.Module] = []
        width_in = WIDTHS[0]
        for width in WIDTHS:
            stride = 1 if width == WIDTHS[0] else 2
            blocks += [BasicBlock(width_in, width, stride), BasicBlock(width, width)]
            width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes"]:
        require_images(pixel_values, self.num_channels, None)
        maps = self.blocks(self.stem(pixel_values))
        return self.classifier(maps.mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv3x3(width_in, width, stride), nn.BatchNorm2d(width))
        self.second = nn.Sequential(_conv3x3(width, width), nn.BatchNorm2d(width))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def _conv3x3(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel_size=3, stride=stride, padding=1, bias=False)
