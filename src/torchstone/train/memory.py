"""Memory that runs out in a step, told in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from torchstone._errors import OutOfMemory


def lacks_memory(error: BaseException) -> bool:
    """The allocator of CUDA has a class for it; those of the CPU and of MPS say it in words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "MPS backend out of memory"))


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """Where memory runs out, say so and what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemory(
            "not enough memory for a training step",
            why=str(error).partition("\n")[0] or type(error).__name__,
            next="halve train.batch_size and double train.gradient_accumulation_steps, "
            "or --set train.gradient_checkpointing=true",
        ) from error
