"""What a tokenizer is, as a record: size, specials, how it cuts a text, which models share its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchstone.data.known_tokenizers import candidates
from torchstone.data.tokenizer import Tokenizer

KINDS = {
    "ByteTokenizer": "bytes",
    "BytePairTokenizer": "bpe",
    "CharTokenizer": "char",
    "FileTokenizer": "file",
    "SentencePieceTokenizer": "sentencepiece",
}
PREVIEW_TOKENS = 40


def tokenizer_info(tokenizer: Tokenizer, texts: Sequence[str] = ()) -> dict[str, Any]:
    """JSON-serialisable. Compression is measured on `texts`; without any it is null."""
    rows = tokenizer.encode_batch(list(texts))
    num_tokens = sum(map(len, rows))
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return {
        "kind": KINDS.get(type(tokenizer).__name__, type(tokenizer).__name__),
        "vocab_size": tokenizer.vocab_size,
        "num_unused": getattr(tokenizer, "num_unused", 0),
        "pad": _special(tokenizer, tokenizer.pad_token_id),
        "eos": _special(tokenizer, tokenizer.eos_token_id),
        "num_special": len(_specials(tokenizer)),
        "fingerprint": tokenizer.fingerprint,
        "same_size_as": [each.name for each in candidates(tokenizer.vocab_size)],
        "measured": {
            "texts": len(rows),
            "bytes": num_bytes,
            "tokens": num_tokens,
            "bytes_per_token": num_bytes / num_tokens if num_tokens else None,
        },
    }


def preview(tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """The first tokens of `text`: each id with what it decodes to alone."""
    ids = tokenizer.encode(text)[:PREVIEW_TOKENS]
    return [{"id": each, "text": tokenizer.decode([each])} for each in ids]


def _specials(tokenizer: Tokenizer) -> dict[str, int]:
    found: dict[str, int] = getattr(tokenizer, "special_tokens", dict)()
    return found


def _special(tokenizer: Tokenizer, token_id: int | None) -> dict[str, Any] | None:
    if token_id is None:
        return None
    name = next((name for name, each in _specials(tokenizer).items() if each == token_id), None)
    return {"id": token_id, "token": name}
