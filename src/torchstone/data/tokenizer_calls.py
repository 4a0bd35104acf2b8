"""What users of transformers know about a tokenizer: calling it, padding, specials, saving.

    batch = tokenizer(["a text", "a longer text"], padding=True)    # {"input_ids", "attention_mask"}

Each kind of tokenizer here inherits this and brings `encode`, `encode_batch`, `special_tokens` and `_text`.
What was padded is known from the lengths, never from the ids: where pad and end-of-document are one token,
pads are masked and a real end is kept. Nothing is put around a text unless `add_eos` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone._errors import DataError, UsageError

if TYPE_CHECKING:
    Padding = bool | str


class TokenizerCalls:
    """Ids are lists of int; with `return_tensors` "pt" or "np" they are (B, T) arrays of 64 bits."""

    vocab_size: int
    pad_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        raise NotImplementedError

    def special_tokens(self) -> dict[str, int]:
        """Every token that is no text, by its name."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def _text(self, ids: Sequence[int]) -> str:
        """`ids`, all in the vocabulary, as text without specials."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: Padding = False,
        truncation: bool = False,
        max_length: int | None = None,
        add_eos: bool = False,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        """`padding`: True or "longest", "max_length", False. Truncation cuts text, never the end mark."""
        if max_length is not None and max_length < 1:
            raise UsageError(f"max_length={max_length} leaves no token")
        if truncation and max_length is None:
            raise UsageError("truncation needs max_length", next="tokenizer(..., max_length=128)")
        if add_eos and self.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-document token", next="leave add_eos out")
        one = isinstance(text, str)
        rows = self.encode_batch([text] if isinstance(text, str) else list(text))
        if truncation and max_length is not None:
            rows = [row[: max_length - add_eos] for row in rows]
        if add_eos and self.eos_token_id is not None:
            rows = [[*row, self.eos_token_id] for row in rows]
        batch = self.pad(
            {"input_ids": rows}, padding=padding, max_length=max_length, return_tensors=return_tensors
        )
        if one and return_tensors is None:
            return {name: column[0] for name, column in batch.items()}
        return batch

    def pad(
        self,
        encoded: dict[str, Any],
        *,
        padding: Padding = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        """Rows of `input_ids`, on the right, to one length; a mask that came with them is kept."""
        rows = [list(row) for row in encoded["input_ids"]]
        masks = [list(row) for row in encoded.get("attention_mask", [])] or [[1] * len(row) for row in rows]
        length = _length(padding, max_length, rows)
        if length is not None and any(len(row) < length for row in rows):
            if self.pad_token_id is None:
                raise DataError(
                    "the tokenizer has no pad token",
                    next="tokenizer.pad_token_id = tokenizer.eos_token_id: pads are masked by length",
                )
            rows = [row + [self.pad_token_id] * (length - len(row)) for row in rows]
            masks = [mask + [0] * (length - len(mask)) for mask in masks]
        return {
            "input_ids": _as_tensors(rows, return_tensors),
            "attention_mask": _as_tensors(masks, return_tensors),
        }

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """The text of `ids`, a list or a tensor; an id outside the vocabulary is an error."""
        ids = [int(each) for each in ids]
        for each in ids:
            if not 0 <= each < self.vocab_size:
                raise unknown_id(each, self.vocab_size)
        if skip_special_tokens:
            return self._text(ids)
        names = {token_id: name for name, token_id in self.special_tokens().items()}
        return "".join(names.get(run[0]) or self._text(run) for run in _runs(ids, names))

    def batch_decode(self, sequences: Sequence[Any], skip_special_tokens: bool = True) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def encode_with_specials(self, text: str) -> list[int]:
        """As `encode`, but what spells a special token becomes that token: for prompts, never for data."""
        specials = self.special_tokens()
        if not specials:
            return self.encode(text)
        longest_first = sorted(specials, key=len, reverse=True)
        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
            if piece in specials:
                ids.append(specials[piece])
            elif piece:
                ids += self.encode(piece)
        return ids

    @property
    def pad_token(self) -> str | None:
        return self._name(self.pad_token_id)

    @property
    def eos_token(self) -> str | None:
        return self._name(self.eos_token_id)

    @property
    def all_special_ids(self) -> list[int]:
        return sorted(set(self.special_tokens().values()))

    def save_pretrained(self, folder: str | Path) -> None:
        """A folder that `load_tokenizer` reads and, where it holds a tokenizer.json, `AutoTokenizer`."""
        self.save(Path(folder))

    def _name(self, token_id: int | None) -> str | None:
        return next((name for name, each in self.special_tokens().items() if each == token_id), None)


def unknown_id(token_id: int, vocab_size: int) -> DataError:
    return DataError(
        f"token id {token_id} is outside the tokenizer's vocabulary", why=f"it has {vocab_size} entries"
    )


def _length(padding: Padding, max_length: int | None, rows: Sequence[Sequence[int]]) -> int | None:
    if padding in (False, "do_not_pad"):
        return None
    if padding in (True, "longest"):
        return max(map(len, rows), default=0)
    if padding == "max_length" and max_length is not None:
        return max_length
    raise UsageError(
        f"padding={padding!r} with max_length={max_length} says no length",
        next='padding=True, padding="longest", or padding="max_length" with max_length=N',
    )


def _as_tensors(rows: list[list[int]], kind: str | None) -> Any:
    if kind is None:
        return rows
    if len({len(row) for row in rows}) > 1:
        raise UsageError("rows of unequal length make no tensor", next="tokenizer(..., padding=True)")
    if kind == "pt":
        import torch

        return torch.tensor(rows, dtype=torch.int64)
    if kind == "np":
        import numpy

        return numpy.array(rows, dtype=numpy.int64)
    raise UsageError(f"return_tensors={kind!r} is unknown", next='"pt", "np", or leave it out')


def _runs(ids: Sequence[int], names: dict[int, str]) -> Iterator[list[int]]:
    """Specials one by one, what stands between them together."""
    run: list[int] = []
    for each in ids:
        if each in names:
            if run:
                yield run
            yield [each]
            run = []
        else:
            run.append(each)
    if run:
        yield run
