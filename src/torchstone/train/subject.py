"""What is trained and on what: everything the engine needs that no configuration key holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone.data.task import TaskSpec
from torchstone.data.token_bytes import TokenBytes
from torchstone.train.loop_parts import Batches
from torchstone.train.losses import Batch, SpecialIds
from torchstone.train.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its data, ready for the engine."""

    module: nn.Module
    forward: Callable[..., Any]
    task: TaskSpec
    ids: SpecialIds
    model: Mapping[str, Any]
    """Rebuilds the model; kept in each checkpoint."""
    batches: Batches
    """Raw batches with their states."""
    validation: Callable[[], Iterable[Batch]] | None
    device: torch.device
    save_extras: Callable[[Path], None] | None = None
    """Puts what belongs to the model (a tokenizer) into the run folder."""
    sampler: Callable[[int, str | None], str] | None = None
    notes: list[str] = field(default_factory=list)
    data: Mapping[str, str | None] = field(default_factory=dict)
    """Fingerprints of `train` and `validation`."""
    num_tokens: int | None = None
    """Tokens of one epoch, where they are known."""
    hooks: Sequence[object] = ()
    """Watchers that belong to the model."""
    token_bytes: TokenBytes | None = None
    """Bytes of text that the tokens stand for, where they are known and something is validated."""
    ranks: Ranks = ALONE
    """Who trains it together; batches and validation are the part of this one."""
