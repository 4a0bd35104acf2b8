"""Token ids with a meaning, gathered from the tokenizer, the model's config and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchstone.train.losses import SpecialIds


def special_ids(
    kind: str,
    facts: Any,
    tokenizer: Any,
    config: Mapping[str, Any],
    *,
    packed: bool = False,
    notes: list[str],
) -> SpecialIds:
    """`packed`: no batch holds padding, so the pad token is free to stand for a missing mask token."""
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        pad = facts.pad_token_id
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        mask = config.get("mask_token_id")
    if mask is None and packed and getattr(tokenizer, "pad_token_id", None) is not None:
        mask = tokenizer.pad_token_id
        if kind == "masked-lm":
            notes.append(f"the tokenizer has no mask token: its pad token {mask} hides tokens")
    return SpecialIds(
        vocab_size=facts.vocab_size, mask=mask, decoder_start=facts.decoder_start_token_id, pad=pad
    )
