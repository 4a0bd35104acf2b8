"""A text source as training and validation batches: read, tokenise, pack, load."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError, UsageError
from torchstone.config.resolve import Resolved
from torchstone.data.loader import Loader
from torchstone.data.pack import TokenBlocks, pack
from torchstone.data.source import read_source
from torchstone.data.task import TaskSpec
from torchstone.data.tokenizer import Tokenizer, build_tokenizer
from torchstone.train.losses import Batch

LONGEST_DEFAULT_SEQUENCE = 128
"""Tokens; beyond it a first run on a CPU becomes a long one."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Batches of one source, and the tokenizer that made them."""

    tokenizer: Tokenizer
    batches: Loader
    validation: Callable[[], Iterable[Batch]] | None
    """None where no file is held out."""
    num_tokens: int
    """Of one epoch."""
    held_out: TokenBlocks | None = None
    """What `validation` gives batches of."""


def read_text(
    config: Resolved,
    task: TaskSpec,
    facts: Any,
    *,
    tokenizer: Tokenizer | None = None,
    cache_dir: Path | None = None,
) -> Text:
    """The source that `data.source` names, for a model with these facts."""
    data, loop = config.data, config.train
    if task.kind not in ("causal-lm", "masked-lm"):
        raise UsageError(
            f"text alone does not train a model for {task.kind}",
            where=f"data.source = {data.source}",
            why="its examples need labels",
            next="use torchstone.Trainer with a dataset, or --task causal-lm if it is a language model",
        )
    corpus = read_source(data.source, data)
    tokenizer = tokenizer or build_tokenizer(data, corpus, facts.vocab_size, cache_dir)
    length = sequence_length(data.sequence_length, facts.max_seq_len)
    packed = pack(corpus, tokenizer, length, cache_dir=cache_dir)
    held_out = packed.val

    def validation() -> Iterable[Batch]:
        assert held_out is not None
        loader = Loader(held_out, loop.batch_size, shuffle=False, task=task, max_samples=data.max_val_samples)
        return (batch for batch, _ in loader)

    return Text(
        tokenizer=tokenizer,
        batches=Loader(
            packed.train, loop.batch_size, loop.random_seed, task=task, max_samples=data.max_train_samples
        ),
        validation=validation if held_out is not None else None,
        num_tokens=len(packed.train) * packed.train.sequence_length,
        held_out=held_out,
    )


def sequence_length(wanted: int | None, limit: int | None) -> int:
    """Tokens per example: what was asked for, else the model's limit, at most the default."""
    if wanted is None:
        return min(limit or LONGEST_DEFAULT_SEQUENCE, LONGEST_DEFAULT_SEQUENCE)
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"data.sequence_length = {wanted} is more than the model takes",
            why=f"its limit is {limit} tokens",
            next=f"--set data.sequence_length={limit}",
        )
    return wanted
