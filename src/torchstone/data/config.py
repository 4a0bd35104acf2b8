"""Knobs of the data: where text comes from, how it becomes tokens and sequences."""

from __future__ import annotations

from torchstone.config.schema import Section, knob


class DataConfig(Section):
    """`data.*`: source, tokenizer, split, batches."""

    source: str = knob(
        "builtin:stdlib",
        help="Where the data comes from: builtin:NAME, hf:NAME, a file (text, table, ids), folder, glob; -.",
    )
    text_column: str | None = knob(
        None, help="Column of a table that holds the text; None takes text, content, or the only one."
    )
    label_column: str | None = knob(None, help="Column of a table that holds the label; None takes label.")
    min_chars: int = knob(0, help="Texts shorter than this are left out.", unit="characters", ge=0)
    deduplicate: str = knob(
        "none",
        help="Leave out texts that came before: exact, or equal but for case, spaces and Unicode forms.",
        choices=("none", "exact", "normalized"),
    )
    task: str = knob("auto", help="Task of the model: auto asks the model, else the name of a task.")
    tokenizer: str = knob(
        "auto",
        help="auto trains a BPE that fits the vocabulary; bpe, char, bytes; pretrained[:NAME]; or a file.",
    )
    tokenizer_vocab_size: int | None = knob(
        None, help="Entries of a trained tokenizer; None takes the model's vocabulary.", unit="tokens", ge=1
    )
    sequence_length: int | None = knob(
        None, help="Tokens per example; None takes the model's limit, at most 128.", unit="tokens", ge=2
    )
    document_attention: bool = knob(
        False, help="Documents that share a block do not see each other (block-diagonal attention)."
    )
    token_dtype: str | None = knob(
        None,
        help="Type of the ids in a source that is a .bin file of tokens; None: uint16.",
        choices=("uint16", "uint32"),
    )
    validation_split: float = knob(
        0.1, help="Share of the files kept for validation.", unit="fraction", ge=0.0, le=0.5
    )
    split_seed: int = knob(0, help="Seed of the split into training and validation files.", ge=0)
    max_bytes: int | None = knob(
        None, help="Read at most this much text, whole files, in seeded order.", unit="bytes", ge=1
    )
    normalize_images: str = knob(
        "none",
        help="Mean and spread of pixels: imagenet as pretrained models want it, half for -1 to 1.",
        choices=("none", "imagenet", "half"),
    )
    bucket_by_length: bool = knob(
        False, help="Put examples of similar length into one batch: less padding, another order."
    )
    num_workers: int = knob(
        0,
        help="Processes that make batches beside the training; 0: none.",
        unit="processes",
        ge=0,
        changes_result=False,
    )
    max_train_samples: int | None = knob(
        None, help="Use at most this many training examples.", unit="examples", ge=1
    )
    max_val_samples: int | None = knob(
        None, help="Use at most this many validation examples.", unit="examples", ge=1
    )
