"""Documents kept apart in a block: asked for, and proven on the model before it trains.

A model may drop the mask, read it as something else, or have no way to restart its positions. So one block
with two documents is run: the second must come out as it does alone, and a change in the first must not
reach it. A model that fails is an error; without the knob nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._errors import ConfigError, ModelError
from torchstone._seeds import preserved_rng
from torchstone.data.pack import TokenBlocks

MOST_BLOCKS = 256
"""Blocks that are searched for one with two documents."""
TOLERANCE = 1e-3
"""Largest difference of two logits, relative to the largest logit: kernels differ in their rounding."""


def keep_apart(
    blocks: TokenBlocks, held_out: TokenBlocks | None, *, causal: bool, eos_token_id: int | None
) -> None:
    """Make both splits give positions, mask and targets of separate documents."""
    for each in (blocks, held_out):
        if each is not None:
            each.separate(causal=causal, eos_token_id=eos_token_id)


def require_separation(forward: Callable[..., Any], module: nn.Module, blocks: Any) -> None:
    """`forward` gives for the second document of a block what it gives for that document alone."""
    batch, first, last = _two_documents(blocks)
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    ids = batch["input_ids"].to(device)
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    other = ids.clone()
    other[:, :first] = (ids[:, :first] + 1) % (ids.max() + 1)
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), preserved_rng():
            together = _logits(forward(**inputs))[:, first:last]
            changed = _logits(forward(**{**inputs, "input_ids": other}))[:, first:last]
            alone = _logits(forward(input_ids=ids[:, first:last]))
    except (RuntimeError, TypeError, ValueError) as problem:
        raise _cannot(f"it fails on a mask of shape (B, 1, T, T): {problem}") from problem
    finally:
        module.train(training)
    scale = TOLERANCE * max(1.0, float(alone.abs().max()))
    if float((together - changed).abs().max()) > scale:
        raise _cannot("a change in one document reaches the next one of its block")
    if float((together - alone).abs().max()) > scale:
        raise _cannot("a document behind another one does not come out as it does alone (positions?)")


def _two_documents(blocks: Any) -> tuple[dict[str, Tensor], int, int]:
    """A block, and where its second document begins and ends in it; two tokens at least are needed."""
    for index in range(min(len(blocks), MOST_BLOCKS)):
        batch = blocks.batch([index])
        positions = batch["position_ids"][0]
        begins = [*(positions == 0).nonzero()[1:, 0].tolist(), len(positions)]
        for first, last in pairwise(begins):
            if first > 1 and last - first > 1:
                return batch, first, last
    raise ConfigError(
        "data.document_attention has no effect here",
        why=f"none of the first {MOST_BLOCKS} blocks holds parts of two documents",
        next="take the key out",
    )


def _logits(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else output.logits
    if logits is None:
        logits = output.main
    return logits.float()


def _cannot(why: str) -> ModelError:
    return ModelError(
        "the model does not keep the documents of a block apart",
        where="data.document_attention = true",
        why=why,
        next="use a model that takes attention_mask (B, 1, T, T) and position_ids (transformers: "
        "attn_implementation='sdpa'), or --set data.document_attention=false",
    )
