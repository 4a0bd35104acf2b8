"""Folders of images, one folder per class: FOLDER/cat/1.png, FOLDER/dog/2.png.

With FOLDER/train and FOLDER/val (validation, valid, dev, test) the maker's split is kept; otherwise an image
stands on the side that its bytes and the seed decide, so that two copies never stand on both. Every file is
opened once before training; a file whose head is fine and whose rest is cut is named when it is drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.data.hub_rows import VALIDATION_NAMES
from torchstone.data.image import SUFFIXES
from torchstone.data.rows import draw, threshold


@dataclass(frozen=True)
class ImageFile:
    """One image: where it lies, the name of its class, and its side where the maker has split."""

    path: Path
    label: str
    sha256: str
    split: str = ""


def is_image_folder(path: Path) -> bool:
    """Whether there is an image below a folder below `path`."""
    return path.is_dir() and any(
        each.suffix.lower() in SUFFIXES for folder in _folders(path) for each in folder.rglob("*")
    )


def list_images(path: Path) -> list[ImageFile]:
    """All images, sorted by name; what is no image by its suffix is left alone."""
    if not path.is_dir():
        raise DataError("there is no such folder of images", where=str(path))
    held_out = next((path / each for each in VALIDATION_NAMES if (path / each).is_dir()), None)
    if (path / "train").is_dir() and held_out is not None:
        return _of_classes(path / "train", "train") + _of_classes(held_out, "val")
    return _of_classes(path, "")


def sides_of(images: list[ImageFile], share: float, seed: int) -> list[str]:
    """train or val for each image."""
    draws = [draw("split", seed, each.sha256) for each in images]
    limit = threshold((min(draws), max(draws)), share)
    return [
        each.split or ("val" if drawn < limit else "train") for each, drawn in zip(images, draws, strict=True)
    ]


def _of_classes(path: Path, split: str) -> list[ImageFile]:
    found = [
        _opened(each, folder.name, split)
        for folder in _folders(path)
        for each in sorted(folder.rglob("*"))
        if each.suffix.lower() in SUFFIXES and each.is_file() and not each.is_symlink()
    ]
    if not found:
        raise DataError(
            "the folder holds no images",
            where=str(path),
            why=f"expected one folder per class with files {', '.join(SUFFIXES[:4])} ...",
            next="FOLDER/cat/1.png, FOLDER/dog/2.png",
        )
    return found


def _folders(path: Path) -> list[Path]:
    return sorted(
        each
        for each in path.iterdir()
        if each.is_dir() and not each.name.startswith(".") and not each.is_symlink()
    )


def _opened(path: Path, label: str, split: str) -> ImageFile:
    pil = require("PIL.Image", "vision")
    try:
        data = path.read_bytes()
        with pil.open(path) as image:
            image.size  # noqa: B018  the head of the file was understood
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as problem:
        raise DataError(
            "an image cannot be read",
            where=str(path),
            why=f"{type(problem).__name__}: {problem}",
            next="repair it or leave it out of the folder",
        ) from None
    return ImageFile(path, label, hashlib.sha256(data).hexdigest(), split)
