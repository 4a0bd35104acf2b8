"""LeNet-5 for 32x32 images (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition").

The sizes are those of the paper (6 and 16 maps of 5x5, then 120, 84 and the classes), with every map of the
first layer connected to every map of the second. Changed as is usual today: ReLU and max pooling instead of
scaled tanh and subsampling, batch norm after each convolution (`batch_norm=False` leaves it out), a linear
output instead of radial basis units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from torchstone.nn.vision.images import require_images

if TYPE_CHECKING:
    from jaxtyping import Float

IMAGE_SIZE = 32


class LeNet5(nn.Module):
    """`(B, channels, 32, 32) -> (B, classes)`."""

    def __init__(self, num_classes: int = 10, num_channels: int = 1, batch_norm: bool = True) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.features = nn.Sequential(
            *_stage(num_channels, 6, batch_norm),
            *_stage(6, 16, batch_norm),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, pixel_values: Float[Tensor, "B 1 32 32"]) -> Float[Tensor, "B classes"]:
        require_images(pixel_values, self.num_channels, IMAGE_SIZE)
        return self.classifier(self.features(pixel_values))


def _stage(channels_in: int, channels_out: int, batch_norm: bool) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm2d(channels_out)] if batch_norm else []
    return [nn.Conv2d(channels_in, channels_out, kernel_size=5), *norm, nn.ReLU(), nn.MaxPool2d(2)]
