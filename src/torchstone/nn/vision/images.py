"""The one question every image model asks of its input: is it a batch of images of my shape?"""

from __future__ import annotations

from torch import Tensor

from torchstone._errors import DataError


def require_images(pixel_values: Tensor, num_channels: int, image_size: int | None) -> None:
    """Raise unless `pixel_values` is `(B, num_channels, image_size, image_size)`; None: any size."""
    side = "any" if image_size is None else str(image_size)
    shape = tuple(pixel_values.shape)
    fits = len(shape) == 4 and shape[1] == num_channels
    if not fits or (image_size is not None and shape[2:] != (image_size, image_size)):
        raise DataError(
            f"pixel_values has shape {shape}, expected (batch, {num_channels}, {side}, {side})",
            next="resize the images, or build the model for theirs",
        )
