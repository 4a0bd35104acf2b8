"""What a source holds: statistics, quality with intervals, lengths, a preview.

    overview = look_at("reviews.csv", DataConfig(), task="classification", sample=1000, seed=0)
    overview["verdict"], overview["rates"], overview["statistics"]

Sums, extremes and copies are counted over all of the data in one pass; rates that need a closer look come
from a seeded sample of it. The result is the record `torchstone.data/1`; drawing it is the caller's business.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchstone._errors import DataError
from torchstone.data.config import DataConfig
from torchstone.data.image_folder import is_image_folder
from torchstone.data.labelled import IMAGE_TASKS, TEXT_TASKS, Labelled, read_labelled
from torchstone.data.quality import (
    COPIES,
    DAMAGED,
    EMPTY,
    FLAT,
    LONG,
    MIN_TOKENS,
    NEAR,
    SHORT,
    STUCK,
    Copies,
    Rate,
    Reservoir,
    judge,
    sample_indices,
    worst,
)
from torchstone.data.rows import told
from torchstone.data.source import SOURCES, Corpus, read_source
from torchstone.data.task import TaskSpec
from torchstone.data.token_file import is_token_file, open_split
from torchstone.data.units import Unit, unit_name, units_of

SCHEMA = "torchstone.data/1"
PREVIEWED = 3
PREVIEW_CHARACTERS = 400
BLOCK_TOKENS = 128


def look_at(
    name: str,
    config: DataConfig,
    *,
    task: str | None = None,
    tokenizer: Any = None,
    sample: int = 1000,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> dict[str, Any]:
    """`task` None: images where the source holds some, else language modelling."""
    started = time.monotonic()
    spec = TaskSpec.from_name(task or guess_task(name))
    if spec.kind in IMAGE_TASKS:
        found = _images(name, config, spec, sample, seed)
    elif is_token_file(name):
        found = _ids(name, config, tokenizer, sample, seed)
    else:
        corpus = read_source(name, config, cache_dir=cache_dir, labelled=spec.kind in TEXT_TASKS)
        found = _texts(corpus, config, spec, tokenizer, sample, seed)
    rates: list[Rate] = found.pop("rates")
    return {
        "schema": SCHEMA,
        "source": name,
        "task": spec.kind,
        "verdict": worst([rate.status for rate in rates]),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 3),
        "rates": [rate.to_dict() for rate in rates],
        **found,
    }


def guess_task(name: str) -> str:
    if name in SOURCES:
        return "vision" if SOURCES.get(name).images is not None else "causal-lm"
    return "vision" if is_image_folder(Path(name).expanduser()) else "causal-lm"


# --- text ------------------------------------------------------------------------------------------


def _texts(
    corpus: Corpus, config: DataConfig, task: TaskSpec, tokenizer: Any, sample: int, seed: int
) -> dict[str, Any]:
    drawn = Reservoir(sample, seed)
    exact, near = Copies(), Copies()
    sums = _Sums()
    classes: Counter[str] = Counter()
    splits = {}
    for side in ("train", "val"):
        before = sums.examples
        for unit in units_of(corpus, side):
            sums.add(unit)
            exact.add(unit.exact)
            near.add(unit.normalized)
            drawn.offer(lambda unit=unit: unit)  # type: ignore[misc]
            if unit.label is not None and task.kind == "classification":
                classes[str(unit.label)] += 1
        splits[side] = {"examples": sums.examples - before, "bytes": corpus.num_bytes(side)}
    units: list[Unit] = drawn.in_order()
    lengths, measure = _lengths(units, tokenizer)
    return {
        "unit": unit_name(corpus),
        "sample": len(units),
        "splits": splits,
        "statistics": sums.to_dict(),
        "rates": _text_rates(corpus, config, task, sums, units, lengths, (exact, near)),
        "lengths": {"unit": measure, "bins": histogram(lengths)},
        "classes": _shares(classes),
        "preview": [
            {"where": unit.where, "text": unit.head[:PREVIEW_CHARACTERS], "label": _plain(unit.label)}
            for unit in _spread(units)
        ],
        "dropped": dict(corpus.dropped),
        "notes": told(corpus.dropped)
        + ([f"{corpus.skipped} files could not be decoded"] if corpus.skipped else []),
    }


def _text_rates(
    corpus: Corpus,
    config: DataConfig,
    task: TaskSpec,
    sums: _Sums,
    units: Sequence[Unit],
    lengths: Sequence[int],
    copies: tuple[Copies, Copies],
) -> list[Rate]:
    sampled = len(units) < sums.examples
    shortest = MIN_TOKENS.get(task.kind, 1)
    empty = corpus.dropped.get("empty", 0)
    rates = [
        judge(SHORT, sum(length < shortest for length in lengths), len(units), sampled=sampled),
        judge(EMPTY, empty, sums.examples + empty, sampled=False),
        judge(DAMAGED, sum(unit.is_damaged for unit in units), len(units), sampled=sampled),
    ]
    for question, seen in zip((COPIES, NEAR), copies, strict=True):
        count, of, partial = seen.counted
        rates.append(judge(question, count, of, sampled=partial))
    if config.sequence_length is not None and task.kind in TEXT_TASKS:
        limit = config.sequence_length
        rates.append(judge(LONG, sum(length > limit for length in lengths), len(units), sampled=sampled))
    return rates


class _Sums:
    """Counted over all units."""

    def __init__(self) -> None:
        self.examples = self.chars = self.words = self.longest = 0
        self.shortest: int | None = None

    def add(self, unit: Unit) -> None:
        self.examples += 1
        self.chars += unit.num_chars
        self.words += unit.num_words
        self.longest = max(self.longest, unit.num_chars)
        self.shortest = unit.num_chars if self.shortest is None else min(self.shortest, unit.num_chars)

    def to_dict(self) -> dict[str, Any]:
        count = max(self.examples, 1)
        return {
            "num_samples": self.examples,
            "total_chars": self.chars,
            "total_words": self.words,
            "avg_chars": self.chars / count,
            "avg_words": self.words / count,
            "min_chars": self.shortest or 0,
            "max_chars": self.longest,
        }


def _lengths(units: Sequence[Unit], tokenizer: Any) -> tuple[list[int], str]:
    """In tokens where there is a tokenizer (of a long unit: by its head), else in characters."""
    if tokenizer is None:
        return [unit.num_chars for unit in units], "characters"
    lengths = []
    for unit in units:
        count = len(tokenizer.encode(unit.head))
        if unit.num_chars > len(unit.head):
            count = round(count * unit.num_chars / len(unit.head))
        lengths.append(count)
    return lengths, "tokens"


# --- images ----------------------------------------------------------------------------------------


def _images(name: str, config: DataConfig, task: TaskSpec, sample: int, seed: int) -> dict[str, Any]:
    from torchstone.data.dataset import to_example

    data: Labelled = read_labelled(name, config, task)
    sides = [("train", data.train), ("val", data.val or [])]
    every = [example for _, side in sides for example in (side[index] for index in range(len(side)))]
    copies = Copies()
    for example in every:
        copies.add(_digest(example))
    chosen = sample_indices(len(every), sample, seed)
    sizes, flat = [], 0
    for index in chosen:
        pixels = to_example(every[index], index, None)["pixel_values"]
        sizes.append(int(max(pixels.shape[-2:])))
        flat += bool(pixels.max() - pixels.min() < 1 / 255)
    names = data.class_names
    classes = Counter(names[each["labels"]] if names else str(each["labels"]) for each in every)
    count, of, partial = copies.counted
    return {
        "unit": "image",
        "sample": len(chosen),
        "splits": {side: {"examples": len(each), "bytes": None} for side, each in sides},
        "statistics": {"num_samples": len(every), "num_classes": len(classes)},
        "rates": [
            judge(FLAT, flat, len(chosen), sampled=len(chosen) < len(every)),
            judge(COPIES, count, of, sampled=partial),
        ],
        "lengths": {"unit": "pixels", "bins": histogram(sizes)},
        "classes": _shares(classes),
        "preview": [
            {
                "where": str(every[index].get("image", f"{name}, image {index}")),
                "text": f"{sizes[place]} pixels wide or high",
                "label": names[every[index]["labels"]] if names else every[index]["labels"],
            }
            for place, index in _spread(list(enumerate(chosen)))
        ],
        "dropped": {},
        "notes": list(data.notes),
    }


def _digest(example: dict[str, Any]) -> bytes:
    import hashlib

    if "image" in example:
        with Path(example["image"]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(example["pixel_values"].numpy().tobytes()).digest()


# --- ids -------------------------------------------------------------------------------------------


def _ids(name: str, config: DataConfig, tokenizer: Any, sample: int, seed: int) -> dict[str, Any]:
    train, val = open_split(name, config.token_dtype, config.validation_split)
    sides = {"train": train} | ({} if val is None else {"val": val})
    blocks = [(side, start) for side, ids in sides.items() for start in range(0, len(ids), BLOCK_TOKENS)]
    if not blocks:
        raise DataError("the file holds no ids", where=name)
    chosen = [blocks[index] for index in sample_indices(len(blocks), sample, seed)]
    found = [np.asarray(sides[side][start : start + BLOCK_TOKENS]) for side, start in chosen]
    stuck = sum(len(each) > 1 and bool((each == each[0]).all()) for each in found)
    return {
        "unit": f"block of {BLOCK_TOKENS} ids",
        "sample": len(found),
        "splits": {side: {"examples": len(ids), "bytes": int(ids.nbytes)} for side, ids in sides.items()},
        "statistics": {
            "num_samples": sum(len(ids) for ids in sides.values()),
            "min_id": min(int(ids.min()) for ids in sides.values()),
            "max_id": max(int(ids.max()) for ids in sides.values()),
        },
        "rates": [judge(STUCK, stuck, len(found), sampled=len(found) < len(blocks))],
        "lengths": {"unit": "ids", "bins": histogram([len(each) for each in found])},
        "classes": [],
        "preview": [
            {"where": f"{name}, {side}, id {start}", "text": _shown(ids, tokenizer), "label": None}
            for (side, start), ids in _spread(list(zip(chosen, found, strict=True)))
        ],
        "dropped": {},
        "notes": [],
    }


def _shown(ids: Any, tokenizer: Any) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids[:40]))
    return str(tokenizer.decode([int(each) for each in ids]))[:PREVIEW_CHARACTERS]


# --- shared ----------------------------------------------------------------------------------------


def histogram(lengths: Sequence[int]) -> list[dict[str, int]]:
    """Counts by powers of two: `from` <= length <= `to`."""
    counts = Counter(length.bit_length() for length in lengths)
    if not counts:
        return []
    return [
        {"from": 1 << (bits - 1) if bits else 0, "to": (1 << bits) - 1, "count": counts[bits]}
        for bits in range(min(counts), max(counts) + 1)
    ]


def _spread(items: Sequence[Any]) -> list[Any]:
    """A few from everywhere."""
    count = min(PREVIEWED, len(items))
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def _shares(classes: Counter[str]) -> list[dict[str, Any]]:
    total = max(classes.total(), 1)
    return [
        {"name": name, "examples": count, "share": count / total}
        for name, count in sorted(classes.items(), key=lambda each: (-each[1], each[0]))
    ]


def _plain(label: Any) -> Any:
    return label if label is None or isinstance(label, str | int | float) else str(label)
