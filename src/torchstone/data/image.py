"""An image file, or a PIL image, as a tensor that a vision model takes: (C, H, W), values 0 to 1.

It is resized to the task's image size and given the task's channels. Mean and spread are left alone: what a
pretrained model wants there is its own processor's business (pass a collator, or a transformed dataset).
An image that cannot be read is an error that names it; nothing is ever put in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.task import TaskSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
MODES = {1: "L", 3: "RGB"}


def is_image(value: Any) -> bool:
    """A path to an image, or an image of PIL (recognised without importing it)."""
    if isinstance(value, str | Path):
        return Path(value).suffix.lower() in SUFFIXES
    return callable(getattr(value, "convert", None)) and hasattr(value, "size") and hasattr(value, "mode")


def read_image(value: Any, task: TaskSpec | None, where: str) -> Tensor:
    pil = require("PIL.Image", "vision")
    channels = (task.num_channels if task else None) or 3
    size = task.image_size if task else None
    try:
        image = pil.open(value) if isinstance(value, str | Path) else value
        image = image.convert(MODES.get(channels, "RGB"))  # decodes all of it: a cut file fails here
        if size is not None and image.size != (size, size):
            image = image.resize((size, size), pil.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as problem:
        raise DataError(
            "an image cannot be read",
            where=f"{where}: {value}" if isinstance(value, str | Path) else where,
            why=f"{type(problem).__name__}: {problem}",
            next="repair it or leave it out of the dataset",
        ) from None
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255.0)
    return pixels[None] if pixels.dim() == 2 else pixels.movedim(-1, 0).contiguous()
