"""How many bytes of the user's text a token stands for, so that a loss can be told in bits per byte.

    told = token_bytes(tokenizer, blocks)
    told.count(targets, before)          # bytes of the text behind these targets, or Unknown says why not

Marks (end of document, padding) stand for no byte; a byte-fallback token stands for one; a character that
is spelled in parts counts where it is complete. A tokenizer that puts a space before a text counts one byte
less where a document begins. What a tokenizer spells is not always what the user wrote (it may lower, join
or drop letters), so wherever the bytes of the text are known, the tokens of the whole stream have to make
up exactly as many, else nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchstone.data.collate import IGNORED_LABEL
from torchstone.data.pack import TokenBlocks
from torchstone.data.tokenizer_file import LOST, FileTokenizer

if TYPE_CHECKING:
    from jaxtyping import Int

AT_ONCE = 1 << 22
"""Tokens of a stream that are summed together."""


@dataclass(frozen=True)
class Unknown:
    """Why the bytes of the tokens cannot be told."""

    why: str


@dataclass(frozen=True)
class TokenBytes:
    """Bytes of each token of a vocabulary."""

    lengths: Int[Tensor, " V"]
    opening: int
    """Bytes that the first token of a document spells and the text does not have."""
    eos_token_id: int | None
    proven: bool
    """Whether the bytes of a whole stream were counted and are those of its text."""

    @property
    def how(self) -> str:
        return "bytes of each target token" + (", which make up the text" if self.proven else "")

    def count(self, targets: Int[Tensor, "*N"], before: Int[Tensor, "*N"]) -> int | None:
        """Bytes of `targets` (-100 counts nothing), each behind the token in `before`; None: not known."""
        counted = targets != IGNORED_LABEL
        ids = targets[counted]
        if ids.numel() and int(ids.max()) >= len(self.lengths):
            return None
        lengths = self.lengths[ids]
        if bool((lengths < 0).any()):
            return None
        total = int(lengths.sum())
        if self.opening and self.eos_token_id is not None:
            opens = before[counted].eq(self.eos_token_id) & ids.ne(self.eos_token_id)
            total -= self.opening * int(opens.sum())
        return total


def token_bytes(tokenizer: Any, blocks: Any = None) -> TokenBytes | Unknown:
    """`blocks`: the data, which proves the lengths where it is a stream that knows the bytes of its text."""
    if tokenizer is None:
        return Unknown("nobody said which tokenizer made the ids")
    tokenizer = _ours(tokenizer)
    exact = _asked(tokenizer, "byte_lengths")
    lengths = exact or _asked(tokenizer, "spelled_lengths")
    if lengths is None:
        return Unknown("the tokenizer does not tell which bytes its tokens stand for")
    table = torch.tensor(lengths, dtype=torch.int64)
    found = TokenBytes(table, _opening(tokenizer, lengths), tokenizer.eos_token_id, proven=False)
    if isinstance(blocks, TokenBlocks) and blocks.num_text_bytes:
        return _proven(found, blocks)
    if exact is None or found.opening:
        return Unknown("the tokenizer may change a text, and there is no text to hold its tokens against")
    return found


def _ours(tokenizer: Any) -> Any:
    """A fast tokenizer of transformers as the one of ours that it is made of."""
    library = getattr(tokenizer, "backend_tokenizer", None)
    if library is None:
        return tokenizer
    copy = type(library).from_str(library.to_str())
    return FileTokenizer(copy, pad=tokenizer.pad_token, eos=tokenizer.eos_token)


def _asked(tokenizer: Any, name: str) -> list[int] | None:
    tell = getattr(tokenizer, name, None)
    return None if tell is None else tell()


def _opening(tokenizer: Any, lengths: list[int]) -> int:
    """What is put before a text: "a" has one byte, and nearly every vocabulary has it."""
    spelled = [lengths[each] for each in tokenizer.encode("a")]
    return 0 if LOST in spelled else max(0, sum(spelled) - 1)


def _proven(found: TokenBytes, blocks: TokenBlocks) -> TokenBytes | Unknown:
    """`found`, if the whole stream has exactly the bytes of its text."""
    tokens, eos = blocks.tokens, found.eos_token_id
    if found.opening and eos is None:
        return Unknown("the tokenizer puts a space before each document, and none is seen to begin")
    lengths = found.lengths.numpy()
    total = 0
    for start in range(0, len(tokens), AT_ONCE):
        ids = np.asarray(tokens[start : start + AT_ONCE], dtype=np.int64)
        if int(ids.max()) >= len(lengths):
            return Unknown(f"the data has id {int(ids.max())}, and the tokenizer {len(lengths)} entries")
        spelled = lengths[ids]
        if int(spelled.min()) < 0:
            return Unknown(f"{int((spelled < 0).sum()):,} tokens are unknown words, whose text is lost")
        total += int(spelled.sum())
        if found.opening:
            before = np.concatenate([tokens[start - 1 : start] if start else [eos], ids[:-1]])
            total -= found.opening * int(((before == eos) & (ids != eos)).sum())
    if total != blocks.num_text_bytes:
        return Unknown(
            f"the tokens spell {total:,} bytes and the text has {blocks.num_text_bytes:,}: "
            "the tokenizer changes what it reads"
        )
    return TokenBytes(found.lengths, found.opening, eos, proven=True)
