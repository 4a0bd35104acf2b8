"""Golden inputs and outputs: what the model answers before it leaves, over the shapes that exports get wrong.

One token, odd lengths, the longest sequence, one row and three, padding, Unicode text through the tokenizer,
and for pairs of sequences unequal lengths. `golden.npz` holds the arrays, `golden.json` what each case is for
and which could not be made. Of large outputs an even sample of numbers is kept, and every likeliest entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchstone import _files
from torchstone._errors import ModelError
from torchstone.export.program import SEQUENCE, TARGET, example
from torchstone.export.standalone.verify import CASES, GOLDEN

if TYPE_CHECKING:
    from torchstone.export.source import Source

KEPT_NUMBERS = 65_536
"""Numbers of one output that are kept."""
LONGEST = 2048
"""Tokens of the longest case; a model that takes more is proven up to here."""
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "naïve café, Straße, 你好世界, Привет, שלום",
    "def f(x):\n\treturn x + 1  # 👩‍🔬 e\u0301",
)

Batch = dict[str, Tensor]


@dataclass
class GoldenSet:
    """Cases with their arrays, and what could not be made."""

    cases: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def add(self, name: str, what: str, batch: Batch, output: Tensor) -> None:
        mask = batch.get("attention_mask")
        found = output.float().cpu().numpy()
        real = _real(found, mask, batch)
        if not np.isfinite(found[real]).all():
            raise ModelError(
                f"the model answers with NaN or infinities: {what}",
                why="what is no number cannot be proven, nor used",
                next="torchstone check TARGET --only numerical-stability,parameter-initialization",
            )
        places = np.broadcast_to(real[(...,) + (None,) * (found.ndim - real.ndim)], found.shape).reshape(-1)
        index = np.flatnonzero(places)
        if len(index) > KEPT_NUMBERS:
            index = index[np.linspace(0, len(index) - 1, KEPT_NUMBERS).astype(np.int64)]
        self.cases.append({"id": name, "what": what, "shape": list(found.shape)})
        arrays = {f"{name}/{each}": value.cpu().numpy() for each, value in batch.items()}
        arrays[f"{name}/values"] = found.reshape(-1)[index]
        if len(index) < found.size:
            arrays[f"{name}/index"] = index
        if found.ndim > 1:
            arrays[f"{name}/top"] = found.argmax(axis=-1).astype(np.int32)
            arrays[f"{name}/real"] = np.broadcast_to(
                real[(...,) + (None,) * (found.ndim - 1 - real.ndim)], found.shape[:-1]
            )
        self.arrays |= arrays

    def write(self, folder: Path) -> None:
        with _files.replacing(folder / GOLDEN) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]
        told = {"cases": self.cases, "texts": self.texts, "left_out": self.left_out}
        _files.write_json(folder / CASES, {"schema": "torchstone.golden/1"} | told)


def make_golden(source: Source) -> GoldenSet:
    """Ask the model itself, on the CPU, in evaluation mode; ModelError where it answers with NaN."""
    golden = GoldenSet()
    adapter = source.adapter
    adapter.module.eval()
    modes = torch.random.get_rng_state()
    for name, what, batch in _cases(source, golden):
        with torch.no_grad():
            output = source.traceable(*(batch[each] for each in source.interface.names))
        golden.add(name, what, batch, output)
    torch.random.set_rng_state(modes)
    return golden


def _cases(source: Source, golden: GoldenSet) -> Iterator[tuple[str, str, Batch]]:
    adapter, interface = source.adapter, source.interface
    free = any(SEQUENCE in each.axes for each in interface.inputs)
    targets = any(TARGET in each.axes for each in interface.inputs)
    longest = min(LONGEST, interface.max_length or 2 * 32 + 1)
    if free and interface.max_length is None:
        golden.left_out.append({"id": "maximum", "why": "no limit is known; 65 tokens stand for it"})
    elif free and longest < (interface.max_length or 0):
        why = f"the model takes {interface.max_length} tokens; {longest} stand for them"
        golden.left_out.append({"id": "maximum", "why": why})
    shapes = [(1, 1), (3, 1), (1, 7), (3, 13), (1, longest)] if free else [(1, 16), (3, 16)]
    for seed, (rows, length) in enumerate((rows, min(length, longest)) for rows, length in shapes):
        target = None if not targets else (1, 4, 7, 3, longest)[seed % 5]
        batch = example(adapter, rows, interface.fixed_length or length, target, seed=100 + seed)
        what = f"{rows} row{'s' if rows > 1 else ''}" + (f" of {length} tokens" if free else "")
        yield f"{seed:02}", what, batch
    if interface.has_mask and free:
        yield "padding", "3 rows padded to 9 tokens", _padded(source, min(9, longest))
    else:
        golden.left_out.append({"id": "padding", "why": "the model takes no attention mask"})
    yield from _texts(source, golden, longest)


def _padded(source: Source, length: int) -> Batch:
    batch = example(source.adapter, 3, length, 3, seed=7)
    for row, real in enumerate((length, max(1, length // 2), 1)):
        batch["attention_mask"][row, real:] = 0
        if (pad := source.adapter.facts.pad_token_id) is not None:
            batch["input_ids"][row, real:] = pad
    return batch


def _texts(source: Source, golden: GoldenSet, longest: int) -> Iterator[tuple[str, str, Batch]]:
    words = source.tokenizer
    if words is None or "input_ids" not in source.interface.names:
        golden.left_out.append({"id": "text", "why": "the model has no tokenizer"})
        return
    if source.interface.fixed_length is not None:
        golden.left_out.append({"id": "text", "why": "the model takes one length only"})
        return
    for number, text in enumerate(TEXTS):
        ids = source.ids_of(text)
        golden.texts.append({"text": text, "ids": ids, "marks": source.marks})
        if not ids:
            continue
        batch = example(source.adapter, 1, min(len(ids), longest), 4, seed=number)
        width = batch["input_ids"].shape[1]
        batch["input_ids"] = torch.tensor([ids[:width]])
        yield f"text{number}", f"the text {text[:20]!r}", batch


def _real(found: np.ndarray[Any, Any], mask: Tensor | None, batch: Batch) -> np.ndarray[Any, Any]:
    """Which rows, or positions, are no padding: (B,) or (B, T)."""
    if mask is None or found.ndim < 3 or found.shape[1] != mask.shape[1] or "decoder_input_ids" in batch:
        return np.ones(found.shape[:1], dtype=bool)
    return np.asarray(mask.cpu().numpy() != 0)
