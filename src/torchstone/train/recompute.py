"""Gradient checkpointing: blocks keep only their inputs and are computed again for the backward pass.

Chen et al. 2016, arXiv:1604.06174, with torch's own non-reentrant form, which repeats the same dropout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from torchstone._errors import ConfigError
from torchstone.adapt.stack import stacks_of


@contextmanager
def recomputed_blocks(module: nn.Module, run: Callable[[], Any]) -> Iterator[list[str]]:
    """For the length of the block, the deep stacks of `module` are recomputed; gives the blocks' names.

    `run` is a forward pass, to see which modules are a stack. Evaluation is left as it is.
    """
    stacks = stacks_of(module, run)
    blocks = {name: each for stack in stacks for name, each in zip(stack.names, stack.modules, strict=True)}
    if not blocks:
        raise ConfigError(
            "train.gradient_checkpointing has no effect on this model",
            where=type(module).__name__,
            why="it has no stack of like blocks that run one after the other",
            next="leave it out, or use a smaller batch",
        )
    for each in blocks.values():
        each.forward = _recomputing(each, each.forward)
    try:
        yield list(blocks)
    finally:
        for each in blocks.values():
            del each.forward


def _recomputing(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not block.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return call
