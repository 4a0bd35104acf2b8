"""Rows that hold texts (a Hugging Face dataset, a list of dictionaries or of strings) as tokens.

Language models get one stream of all texts, cut into blocks, as from a text source. A classifier gets one
example per text, cut to what the model takes. Two sequences, `source` and `target`, become a pair.
All of it is encoded here and now: rows that cannot be used are an error before training begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchstone._errors import DataError, UsageError
from torchstone.data.dataset import ALIASES, Collate, Dataset, ExampleDataset
from torchstone.data.image import is_image
from torchstone.data.task import TaskSpec
from torchstone.data.token_file import blocks_of_array

TEXT_NAMES = ("text", "content", "sentence", "document")
SOURCE, TARGET = "source", "target"
DEFAULT_LENGTH = 128
"""Tokens of a block, where nothing is said; beyond it a first run on a CPU becomes a long one."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a row are its texts; `labels` is the column of what is to be learned, if any."""

    texts: tuple[str, ...]
    labels: str | None = None


def find_texts(row: Any, task: TaskSpec) -> Columns | None:
    """The text columns of rows like `row`; None: the rows hold no text to be encoded."""
    if isinstance(row, str):
        return None if is_image(row) else Columns(texts=("",))
    if not isinstance(row, Mapping) or "input_ids" in row:
        return None
    texts = [str(name) for name, value in row.items() if isinstance(value, str) and not is_image(value)]
    labels = next((name for name in ("labels", *ALIASES) if name in row), None)
    texts = [name for name in texts if name != labels]
    if not texts or any(is_image(value) for value in row.values()):
        return None
    if task.kind == "seq2seq":
        if SOURCE in texts and TARGET in texts:
            return Columns(texts=(SOURCE, TARGET))
        raise DataError(
            "a row needs the texts `source` and `target`",
            why=f"its texts are {', '.join(texts)}",
            next="rename the columns, or tokenise them into input_ids and labels",
        )
    known = [name for name in TEXT_NAMES if name in texts]
    if len(texts) > 1 and not known:
        raise DataError(
            f"which of the columns {', '.join(texts)} is the text?",
            why=f"none of them is called {', '.join(TEXT_NAMES)}",
            next="keep the one that is meant, or rename it to text",
        )
    return Columns(texts=(known[0] if known else texts[0],), labels=labels)


def encode_rows(
    rows: Any,
    columns: Columns,
    task: TaskSpec,
    tokenizer: Any,
    *,
    sequence_length: int | None,
    collate: Collate | None,
    notes: list[str],
) -> Dataset:
    """The rows as a dataset of tokens for `task`."""
    if tokenizer is None:
        raise UsageError(
            "the rows hold texts, and there is no tokenizer",
            why=f"column {columns.texts[0]!r}" if columns.texts[0] else "they are plain strings",
            next="Trainer(..., tokenizer=...), or tokenise them into input_ids",
        )
    limit = sequence_length or task.max_length
    if task.kind in ("causal-lm", "masked-lm"):
        length = sequence_length or min(limit or DEFAULT_LENGTH, DEFAULT_LENGTH)
        return blocks_of_array(_stream(_texts(rows, columns.texts[0]), tokenizer), length)
    if task.kind == "seq2seq":
        made = [
            {"input_ids": source, "labels": target}
            for source, target in zip(
                _encoded(rows, SOURCE, tokenizer, limit, notes),
                _encoded(rows, TARGET, tokenizer, limit, notes),
                strict=True,
            )
        ]
        return ExampleDataset(made, task, collate)
    if task.kind not in ("classification", "regression") or columns.labels is None:
        raise DataError(
            f"texts alone do not make examples for {task.kind}",
            why="there is no column of labels" if columns.labels is None else "its labels belong to tokens",
            next="tokenise the rows into input_ids and labels",
        )
    labels = [row[columns.labels] for row in _rows(rows)]
    if any(isinstance(each, str) for each in labels):
        raise DataError(
            "the labels are texts",
            why=f"for example {labels[0]!r}",
            next="number the classes from 0 (a Hugging Face dataset: dataset.class_encode_column('label'))",
        )
    encoded = _encoded(rows, columns.texts[0], tokenizer, limit, notes)
    return ExampleDataset(
        [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, labels, strict=True)],
        task,
        collate,
    )


def _rows(rows: Any) -> Iterable[Any]:
    return (rows[index] for index in range(len(rows)))


def _texts(rows: Any, name: str) -> list[str]:
    texts = []
    for index, row in enumerate(_rows(rows)):
        text = row if not name else row.get(name)
        if not isinstance(text, str):
            raise DataError(
                f"example {index} holds no text",
                where=f"column {name}" if name else "",
                why=f"got {type(text).__name__}",
                next="leave such rows out",
            )
        texts.append(text)
    return texts


def _encoded(
    rows: Any, name: str, tokenizer: Any, limit: int | None, notes: list[str]
) -> list[Sequence[int]]:
    texts = _texts(rows, name)
    marked = _marks_texts(tokenizer)
    encoded = [tokenizer.encode(text) if marked else encode_plain(tokenizer, text) for text in texts]
    empty = next((index for index, ids in enumerate(encoded) if not len(ids)), None)
    if empty is not None:
        raise DataError(f"example {empty} has no tokens", why=f"its text is {texts[empty]!r}")
    long = 0 if limit is None else sum(len(ids) > limit for ids in encoded)
    if long:
        notes.append(f"{long} of {len(texts)} texts were cut to the {limit} tokens that the model takes")
    if marked and limit is not None:  # the mark at the end of a text stays
        cut = {"truncation": True, "max_length": limit}
        return [
            ids if len(ids) <= limit else tokenizer.encode(text, **cut)
            for ids, text in zip(encoded, texts, strict=True)
        ]
    return [ids[:limit] for ids in encoded]


def _stream(texts: Sequence[str], tokenizer: Any) -> np.ndarray[Any, Any]:
    eos = getattr(tokenizer, "eos_token_id", None)
    flat: list[int] = []
    for text in texts:
        flat += encode_plain(tokenizer, text)
        if eos is not None:
            flat.append(eos)
    return np.array(flat, dtype=np.uint32)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Ids of the text alone, also from a tokenizer that would put marks around it."""
    if _marks_texts(tokenizer):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(text))


def _marks_texts(tokenizer: Any) -> bool:
    """Whether it is one of transformers, whose `encode` adds what the model expects around a text."""
    return hasattr(tokenizer, "build_inputs_with_special_tokens") or hasattr(tokenizer, "special_tokens_map")
