"""Pixels from 0 to 1 brought to the mean and spread that a vision model was made for.

It is a wish of the task or of `data.normalize_images`, never a guess: data that is normalised already would
be normalised twice.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from torchstone._errors import ConfigError, DataError
from torchstone.data.task import TaskSpec

SCALES = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
}
"""Mean and standard deviation per channel: of torchvision's pretrained models, and what gives -1 to 1."""


def with_normalisation(task: TaskSpec, name: str) -> TaskSpec:
    """`task` with the mean and spread that `data.normalize_images` names."""
    if name == "none":
        return task
    if task.kind != "vision":
        raise ConfigError(
            f"data.normalize_images has no effect on the task {task.kind}",
            why="it has no images",
            next="take the key out",
        )
    if task.image_mean is not None:
        raise ConfigError("the task says itself how its images are normalised", next="take the key out")
    mean, std = SCALES[name]
    if task.num_channels == 1:
        mean, std = mean[:1], std[:1]
    return dataclasses.replace(task, image_mean=mean, image_std=std)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, C, H, W) with (x - mean) / std in each channel; one number stands for all channels."""
    if not pixels.is_floating_point():
        raise DataError(
            f"images of {pixels.dtype} cannot be normalised",
            why="mean and spread are those of values from 0 to 1",
            next="divide by 255, or give image files",
        )
    if pixels.dim() != 4 or len(mean) not in (1, pixels.shape[1]):
        raise DataError(
            f"images of shape {tuple(pixels.shape[1:])} do not fit {len(mean)} values of mean and spread",
            why="there is one per channel, (C, H, W)",
            next="say TaskSpec(num_channels=..., image_mean=..., image_std=...) as the data has it",
        )
    shape = (len(mean), 1, 1)
    values = [torch.tensor(each, dtype=pixels.dtype).reshape(shape) for each in (mean, std)]
    return (pixels - values[0]) / values[1]
