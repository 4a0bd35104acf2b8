"""A tokenizer in the manner of SentencePiece: spaces are letters, and decoding strips the first of them."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers

from torchstone.data.tokenizer_file import FileTokenizer


def metaspace_tokenizer(texts: Iterable[str], vocab_size: int = 60) -> FileTokenizer:
    library = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.decoder = tokenizers.decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    return FileTokenizer(library)
