"""Sources whose examples have labels, for tasks beyond language modelling.

    data = read_labelled("reviews.csv", DataConfig(), TaskSpec.text_classification(2))
    data.train[0]                                   # {"text": "good", "labels": 1}

Labels that are whole numbers are taken as they are; names are numbered in sorted order, the same in both
splits. What comes out is what `open_data` takes: rows of texts, or images. Rows of texts are held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchstone._errors import ConfigError, DataError
from torchstone._registry import suggest
from torchstone.data.config import DataConfig
from torchstone.data.image_folder import is_image_folder, list_images, sides_of
from torchstone.data.rows import LabelledText, RowPart, draw, threshold
from torchstone.data.source import SOURCES, Corpus, read_source
from torchstone.data.task import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

TEXT_TASKS = ("classification", "regression")
IMAGE_TASKS = ("vision",)
DEFAULT_SIDE = 32
"""Pixels, where neither task nor model says."""


@dataclass(frozen=True)
class Labelled:
    """Examples of both sides; `corpus` is the text that a tokenizer can be trained on."""

    train: Sequence[Any]
    val: Sequence[Any] | None
    class_names: tuple[str, ...] = ()
    num_classes: int | None = None
    corpus: Corpus | None = None
    notes: tuple[str, ...] = ()


def read_labelled(
    name: str,
    config: DataConfig,
    task: TaskSpec,
    *,
    class_names: Sequence[str] = (),
    cache_dir: Path | None = None,
) -> Labelled:
    """The examples of a source for `task`, which is one of TEXT_TASKS or IMAGE_TASKS.

    `class_names` are those that a model was trained with, in its order; other data may lack some of them.
    """
    if task.kind in IMAGE_TASKS:
        data = _pictures(name, config, task) if name in SOURCES else _image_files(name, config, class_names)
        _refuse_text_keys(name, config)
    else:
        data = _texts(name, config, task, class_names, cache_dir)
    found, known = data.num_classes, task.num_classes
    if found is not None and known is not None and found > known:
        raise DataError(
            f"a label is out of range: the data has {found} classes and the model tells {known} apart",
            where=name,
            why=f"labels are 0 to {known - 1}",
            next=f"give the model {found} classes, or leave the others out of the data",
        )
    return data


# --- texts -----------------------------------------------------------------------------------------


def _texts(
    name: str, config: DataConfig, task: TaskSpec, class_names: Sequence[str], cache_dir: Path | None
) -> Labelled:
    corpus = read_source(name, config, cache_dir=cache_dir, labelled=True)
    sides = [[row for part in side for row in _rows(part)] for side in (corpus.train, corpus.val)]
    rows = sides[0] + sides[1]
    if task.kind == "regression":
        values: Sequence[float] = [_number(row) for row in rows]
        names: tuple[str, ...] = ()
        num_classes = None
    else:
        values, names = _classes(rows, class_names)
        num_classes = int(max(values)) + 1
    examples = [{"text": row.text, "labels": value} for row, value in zip(rows, values, strict=True)]
    cut = len(sides[0])
    return Labelled(examples[:cut], examples[cut:] or None, names, num_classes, corpus)


def _rows(part: Any) -> list[LabelledText]:
    assert isinstance(part, RowPart)
    return list(part.rows())


def _classes(rows: Sequence[LabelledText], known: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Numbers as they are; names by their place among the `known` ones, or in sorted order."""
    for row in rows:
        if row.label is None or row.label == "" or not isinstance(row.label, str | int):
            raise DataError(
                "a row has no label",
                where=row.where,
                why=f"got {row.label!r}; a class is a whole number or a name",
                next="repair the row, or name another column with --set data.label_column=NAME",
            )
    numbers = [_whole(row.label) for row in rows]
    if not known and all(number is not None for number in numbers):
        for row, number in zip(rows, numbers, strict=True):
            if number is not None and number < 0:
                raise DataError(f"label {number} is out of range", where=row.where, why="classes begin at 0")
        return [int(number or 0) for number in numbers], ()
    names = list(known) or sorted({str(row.label) for row in rows})
    return [_place(str(row.label), names, row.where) for row in rows], tuple(names)


def _place(label: str, names: Sequence[str], where: str) -> int:
    if label in names:
        return names.index(label)
    raise DataError(
        f"label {label!r} is none of the classes that the model was trained with",
        where=where,
        why=suggest(label, names) or f"they are {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}",
    )


def _whole(label: Any) -> int | None:
    if isinstance(label, int):
        return int(label)
    try:
        return int(label)
    except ValueError:
        return None


def _number(row: LabelledText) -> float:
    try:
        value = float(row.label)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(
            "a row has no number to learn",
            where=row.where,
            why=f"its label is {row.label!r}",
            next="repair the row, or name another column with --set data.label_column=NAME",
        )
    return value


# --- images ----------------------------------------------------------------------------------------


def _refuse_text_keys(name: str, config: DataConfig) -> None:
    keys = (
        "text_column",
        "label_column",
        "max_bytes",
        "min_chars",
        "sequence_length",
        "tokenizer_vocab_size",
    )
    plain = DataConfig()
    useless = [key for key in keys if getattr(config, key) != getattr(plain, key)]
    if config.tokenizer != plain.tokenizer:
        useless.append("tokenizer")
    if config.deduplicate == "normalized" or (config.deduplicate != "none" and name in SOURCES):
        useless.append("deduplicate")
    if useless:
        raise ConfigError(
            f"data.{useless[0]} has no effect on images",
            where=f"data.source = {name}",
            next="take the key out; for images there is data.deduplicate=exact in a folder",
        )


def _image_files(name: str, config: DataConfig, class_names: Sequence[str]) -> Labelled:
    path = Path(name).expanduser()
    if name.startswith("builtin:"):
        SOURCES.get(name)  # tells the names there are
    if path.exists() and not is_image_folder(path):
        raise DataError(
            "the source holds no images",
            where=name,
            why="a vision task takes a folder with one folder per class",
            next="FOLDER/cat/1.png, FOLDER/dog/2.png; or --data builtin:digits",
        )
    images = list_images(path)
    notes: tuple[str, ...] = ()
    if config.deduplicate == "exact":
        # The validation side first: a copy is dropped from train.
        first = {each.sha256: each for each in sorted(images, key=lambda each: each.split == "val")}
        kept = [each for each in images if first[each.sha256] is each]
        notes = (f"left out: {len(images) - len(kept):,} duplicate",) if len(kept) < len(images) else ()
        images = kept
    names = list(class_names) or sorted({each.label for each in images})
    sides = sides_of(images, config.validation_split, config.split_seed)
    halves: dict[str, list[Any]] = {"train": [], "val": []}
    for image, side in zip(images, sides, strict=True):
        halves[side].append({"image": image.path, "labels": _place(image.label, names, str(image.path))})
    if not halves["train"]:
        raise DataError("no image is left for training", where=name)
    return Labelled(halves["train"], halves["val"] or None, tuple(names), len(names), notes=notes)


class Pictures(Sequence[dict[str, Any]]):
    """Arrays as examples, brought to the size and the channels of the task when drawn."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], task: TaskSpec) -> None:
        self.images, self.labels = images, labels
        self.side = task.image_size or DEFAULT_SIDE
        self.channels = task.num_channels or 3

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        import torch

        pixels = torch.from_numpy(self.images[index])[None, None]
        if pixels.shape[-1] != self.side:
            pixels = torch.nn.functional.interpolate(
                pixels, size=(self.side, self.side), mode="bilinear", align_corners=False
            )
        image: Tensor = pixels[0].expand(self.channels, -1, -1).contiguous()
        return {"pixel_values": image, "labels": int(self.labels[index])}


def _pictures(name: str, config: DataConfig, task: TaskSpec) -> Labelled:
    source = SOURCES.get(name)
    if source.images is None:
        raise DataError(
            f"{name} holds no images",
            why=source.summary,
            next="--data builtin:digits, or a folder with one folder of images per class",
        )
    images, labels = source.images()
    draws = np.array([draw("split", config.split_seed, f"{name}/{each.tobytes().hex()}") for each in images])
    held_out = draws < threshold((float(draws.min()), float(draws.max())), config.validation_split)
    val = Pictures(images[held_out], labels[held_out], task) if held_out.any() else None
    names = tuple(str(each) for each in range(int(labels.max()) + 1))
    return Labelled(Pictures(images[~held_out], labels[~held_out], task), val, names, len(names))
