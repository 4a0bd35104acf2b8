"""A source as training and validation batches: text is read, tokenised, packed; files of ids are mapped;
texts and images with labels become examples of a classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone._errors import ConfigError, UsageError
from torchstone.config.resolve import Resolved
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.dataset import ExampleDataset
from torchstone.data.door import open_data
from torchstone.data.labelled import IMAGE_TASKS, TEXT_TASKS, read_labelled
from torchstone.data.loader import Loader
from torchstone.data.normalisation import with_normalisation
from torchstone.data.pack import Progress, TokenBlocks, pack
from torchstone.data.part import WHOLE, Part
from torchstone.data.quality import require_long_enough
from torchstone.data.rows import told
from torchstone.data.source import read_source
from torchstone.data.task import TaskSpec
from torchstone.data.token_file import blocks_of_array, is_token_file, open_split
from torchstone.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from torchstone.train.losses import Batch
from torchstone.train.separation import keep_apart

LONGEST_DEFAULT_SEQUENCE = 128
"""Tokens; beyond it a first run on a CPU becomes a long one."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Batches of one source, and the tokenizer that made them."""

    tokenizer: Tokenizer | None
    """None: the source holds ids, and nobody said what they stand for."""
    batches: Loader
    validation: Callable[[], Iterable[Batch]] | None
    """None where no file is held out."""
    num_tokens: int | None
    """Of one epoch; None where examples are not blocks of tokens."""
    held_out: Any = None
    """What `validation` gives batches of."""
    notes: tuple[str, ...] = ()
    """What was left out or cut."""
    task: TaskSpec | None = None
    """With the sizes that the data has, where it has some."""
    class_names: tuple[str, ...] = ()
    """What the classes 0, 1 ... are called in the source."""


def read_text(
    config: Resolved,
    task: TaskSpec,
    facts: Any,
    *,
    tokenizer: Tokenizer | None = None,
    cache_dir: Path | None = None,
    part: Part = WHOLE,
    on_progress: Progress | None = None,
    class_names: Sequence[str] = (),
) -> Text:
    """The source that `data.source` names, for a model with these facts; of each batch the `part`.

    `class_names`: what a trained classifier calls its classes, in its order.
    """
    data = config.data
    task = with_normalisation(task, data.normalize_images)
    if data.document_attention and task.kind not in ("causal-lm", "masked-lm"):
        raise ConfigError(
            f"data.document_attention has no effect on the task {task.kind}",
            why="its examples are not cut from a stream of documents",
            next="take the key out",
        )
    if task.kind in (*TEXT_TASKS, *IMAGE_TASKS):
        return _labelled(config, task, facts, tokenizer, cache_dir, part, class_names)
    if task.kind not in ("causal-lm", "masked-lm"):
        raise UsageError(
            f"a source does not train a model for {task.kind}",
            where=f"data.source = {data.source}",
            why="its examples need more than a text and a label",
            next="use torchstone.Trainer with a dataset, or --task causal-lm if it is a language model",
        )
    if data.label_column is not None:
        raise ConfigError(
            f"data.label_column has no effect on the task {task.kind}",
            why="its text is its own target",
            next="take the key out",
        )
    length = sequence_length(data.sequence_length, facts.max_seq_len)
    if is_token_file(data.source):
        return _text(config, task, _named_tokenizer(config, tokenizer), *_token_blocks(config, length), part)
    if data.token_dtype is not None:
        raise ConfigError(
            f"data.token_dtype has no effect on data.source={data.source}",
            why="only a .bin file of token ids does not say what it holds",
            next="take the key out",
        )
    corpus = read_source(data.source, data, cache_dir=cache_dir)
    tokenizer = tokenizer or build_tokenizer(data, corpus, facts.vocab_size, cache_dir)
    packed = pack(corpus, tokenizer, length, cache_dir=cache_dir, on_progress=on_progress)
    return _text(config, task, tokenizer, packed.train, packed.val, part, told(corpus.dropped))


def _labelled(
    config: Resolved,
    task: TaskSpec,
    facts: Any,
    tokenizer: Tokenizer | None,
    cache_dir: Path | None,
    part: Part,
    class_names: Sequence[str],
) -> Text:
    """Examples with labels: texts for a classifier, images for a vision model."""
    data = config.data
    if data.token_dtype is not None:
        raise ConfigError(f"data.token_dtype has no effect on the task {task.kind}", next="take the key out")
    sides = facts.image_size or (None, None)
    sized = dataclasses.replace(
        task,
        num_classes=task.num_classes or facts.num_classes,
        image_size=task.image_size or sides[0],
        num_channels=task.num_channels or facts.num_channels,
    )
    found = read_labelled(data.source, data, sized, class_names=class_names, cache_dir=cache_dir)
    notes = list(found.notes)
    if found.corpus is not None:
        tokenizer = tokenizer or build_tokenizer(data, found.corpus, facts.vocab_size, cache_dir)
        notes += told(found.corpus.dropped)
    else:
        tokenizer = None
    length = None if found.corpus is None else sequence_length(data.sequence_length, facts.max_seq_len)
    train, held_out = (
        None
        if side is None
        else open_data(side, sized, tokenizer=tokenizer, sequence_length=length, notes=notes).dataset
        for side in (found.train, found.val)
    )
    made = _text(config, sized, tokenizer, train, held_out, part, notes)
    return dataclasses.replace(made, task=sized, class_names=found.class_names)


def _text(
    config: Resolved,
    task: TaskSpec,
    tokenizer: Tokenizer | None,
    train: Any,
    held_out: Any,
    part: Part,
    notes: Sequence[str] = (),
) -> Text:
    data, loop = config.data, config.train
    if data.document_attention:
        eos = None if tokenizer is None else tokenizer.eos_token_id
        keep_apart(train, held_out, causal=task.kind == "causal-lm", eos_token_id=eos)

    def validation() -> Iterable[Batch]:
        assert held_out is not None
        loader = Loader(
            held_out,
            loop.batch_size,
            shuffle=False,
            task=task,
            max_samples=data.max_val_samples,
            part=part,
        )
        return (batch for batch, _ in loader)

    batches = Loader(
        train,
        loop.batch_size,
        loop.random_seed,
        task=task,
        max_samples=data.max_train_samples,
        num_workers=data.num_workers,
        bucket_by_length=data.bucket_by_length,
        part=part,
    )
    if isinstance(train, ExampleDataset):
        require_long_enough(train, task, loop.random_seed)
    batches.first()
    return Text(
        tokenizer=tokenizer,
        batches=batches,
        validation=validation if held_out is not None else None,
        num_tokens=len(train) * train.sequence_length if isinstance(train, TokenBlocks) else None,
        held_out=held_out,
        notes=tuple(notes),
    )


def _token_blocks(config: Resolved, length: int) -> tuple[TokenBlocks, TokenBlocks | None]:
    data = config.data
    keys = ("tokenizer_vocab_size", "max_bytes", "split_seed", "text_column", "min_chars", "deduplicate")
    useless = [name for name in keys if getattr(data, name) != type(data).model_fields[name].default]
    if useless:
        raise ConfigError(
            f"data.{useless[0]} has no effect on a file of token ids",
            where=f"data.source = {data.source}",
            next="take the key out; data.max_train_samples limits what is used",
        )
    train, val = open_split(data.source, data.token_dtype, data.validation_split)
    return blocks_of_array(train, length), None if val is None else blocks_of_array(val, length)


def _named_tokenizer(config: Resolved, tokenizer: Tokenizer | None) -> Tokenizer | None:
    """What the ids stand for, where that is said; it only serves to show text."""
    named = config.data.tokenizer
    if tokenizer is not None or named == "auto":
        return tokenizer
    return ByteTokenizer() if named == "bytes" else load_tokenizer(Path(named))


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
