"""A run small enough to be killed a hundred times: a model with dropout, a shuffling loader, an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstone._seeds import seed_everything
from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.tracking.checkpoint import newest_good
from torchstone.train.config import LoopConfig
from torchstone.train.engine import Engine
from torchstone.train.hooks import Hooks
from torchstone.train.losses import LOSSES
from torchstone.train.objective import ModelObjective, PreparedBatches, validation_batches
from torchstone.train.progress import Pace, Progress
from torchstone.train.saving import Keeping
from torchstone.train.snapshot import restore_snapshot
from torchstone.train.step import Recipe
from torchstone.train.update import Gradients, HostUpdate

VOCABULARY = 17


class TinyLM(nn.Module):
    """Embedding, one causal mixing layer, dropout, a head tied to the embedding."""

    def __init__(self, width: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        x = x + torch.tanh(self.mix(x.cumsum(1)))
        return self.head(self.dropout(self.norm(x)))


class SmallLoader:
    """Shuffles by (seed, epoch); its state is the place after the batch it comes with."""

    def __init__(self, rows: Tensor, batch_size: int, seed: int | None) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = self.place = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        epoch, first = self.epoch, self.place
        order = torch.arange(len(self.rows))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
            order = torch.randperm(len(self.rows), generator=generator)
        self.epoch, self.place = epoch + 1, 0
        for number in range(first, len(self)):
            ids = self.rows[order[number * self.batch_size : (number + 1) * self.batch_size]]
            last = number + 1 == len(self)
            state = {"epoch": epoch + last, "place": 0 if last else number + 1}
            yield {"input_ids": ids, "labels": ids.clone()}, state

    def load_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.place = state["epoch"], state["place"]


def text_like(num_rows: int, length: int = 6, seed: int = 0) -> Tensor:
    """Sequences with a rule in them: each id follows from the one before."""
    first = torch.randint(VOCABULARY, (num_rows, 1), generator=torch.Generator().manual_seed(seed))
    return (first + 3 * torch.arange(length)) % VOCABULARY


def small_engine(
    run_dir: Path | None,
    *,
    accumulation: int = 1,
    epochs: int = 3,
    rows: dict[tuple[str, int], float] | None = None,
    hooks: tuple[object, ...] = (),
    module: nn.Module | None = None,
    log_row: Callable[[int, dict[str, float]], None] | None = None,
    loop: dict[str, Any] | None = None,
    resume: bool = False,
    precision: Callable[[], Any] = contextlib.nullcontext,
) -> Engine:
    """An engine over 11 rows in batches of 2 (the last one ragged); continues `run_dir` if asked."""
    seed_everything(7)
    module = module or TinyLM()
    config = LoopConfig(batch_size=2, gradient_accumulation_steps=accumulation, epochs=epochs, **(loop or {}))
    optim = OptimConfig(learning_rate=0.02)
    optimizer = build_optimizer(module, optim)
    objective = ModelObjective(module, LOSSES.get("causal-lm"))
    loader = SmallLoader(text_like(11), 2, seed=5)
    validation = SmallLoader(text_like(5, seed=1), 2, seed=None)
    pace = Pace.of(config, batches_per_epoch=len(loader))
    keeping = None
    progress = Progress()
    if run_dir is not None:
        keeping = Keeping(
            run_dir=run_dir,
            config_hash="small",
            model={"class": "TinyLM"},
            keep_last=config.keep_last,
            keep_best=config.keep_best,
            async_save=config.async_save,
        )
        found = newest_good(keeping.checkpoints) if resume else None
        if found is not None:
            progress = restore_snapshot(found, module, optimizer)
    kept: dict[tuple[str, int], float] = {} if rows is None else rows

    def keep(step: int, values: dict[str, float]) -> None:
        kept.update({(key, step): value for key, value in values.items()})

    return Engine(
        module=module,
        objective=objective,
        optimizer=optimizer,
        learning_rate=lambda step: learning_rate_at(step, pace.total_steps, optim),
        batches=PreparedBatches(loader, objective),
        validation=lambda: validation_batches((batch for batch, _ in fresh(validation)), objective),
        recipe=Recipe(HostUpdate(Gradients(list(module.parameters()), 1.0)), precision),
        pace=pace,
        progress=progress,
        keeping=keeping,
        log_row=log_row or keep,
        flush_rows=lambda: None,
        hooks=Hooks(hooks),
        max_time_s=config.max_time_s,
        patience=config.early_stopping_patience,
    )


def fresh(loader: SmallLoader) -> SmallLoader:
    loader.load_state({"epoch": 0, "place": 0})
    return loader


def untimed(rows: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """Rows that a clock has no part in."""
    return {key: value for key, value in rows.items() if key[0] != "train/tokens_per_s"}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
