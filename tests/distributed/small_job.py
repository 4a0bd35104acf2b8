"""A job that two ranks and one process can both do: ragged examples, uneven batches, an active clip."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchstone.data.task import TaskSpec
from torchstone.train.result import Stopped
from torchstone.train.trainer import Trainer
from torchstone.train.training_config import TrainingConfig

VOCABULARY = 13


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.mix(self.norm(x).cumsum(1))))


class SmallLM(nn.Module):
    """Two equal blocks, a tied head, and a parameter that no pass uses."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        width = 7  # two ranks cannot halve it
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(2))
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


SPIKY: dict[str, Any] = {
    "optimizer": "adamwspam",
    "spam_theta": 2.0,
    "spam_interval": 4,
    "spam_warmup": 1,
    "prune_method": "movement",
    "prune_every": 1,
    "prune_start": 0.0,
}
MIXING: dict[str, Any] = {"optimizer": "muon", "prune_method": "magnitude", "prune_every": 2}
PRUNED = {"spiky": SPIKY, "mixing": MIXING}
"""Optimizers with more to do than their kernel, and pruning on top."""
SPLIT = ("sgd", "adam", "adamwadv")
"""Optimizers beside AdamW whose state FSDP splits."""


class Letters:
    """What the ids stand for, as far as a loss in bits per byte has to know."""

    eos_token_id = pad_token_id = 0

    def byte_lengths(self) -> list[int]:
        return [place % 4 for place in range(VOCABULARY)]

    def encode(self, text: str) -> list[int]:
        return [1] * len(text)


class Sequences:
    """Ragged ids."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(2, 9, (size,), generator=generator).tolist()
        self.rows = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


@contextmanager
def signal_after(step: int | None) -> Iterator[None]:
    """This process, and no other, gets a signal when its optimizer has taken so many steps."""
    taken = []

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer.param_groups[0]["params"][0].is_meta:
            return  # a twin, to see how large a checkpoint will be
        taken.append(1)
        if len(taken) == step:
            os.kill(os.getpid(), signal.SIGUSR1)

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


class Losses:
    """A hook: the loss and the gradient's norm of each step."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[float, float]] = {}

    def on_step(self, info: Any) -> None:
        self.steps[info.step] = (info.loss, info.grad_norm)


def train(
    run_dir: Path,
    strategy: str = "auto",
    *,
    dropout: float = 0.0,
    interrupt: int | None = None,
    resume: str = "never",
    **changes: Any,
) -> dict[str, Any]:
    """What came of a run: steps (on rank 0), status, exit code, validation losses."""
    torch.manual_seed(1)
    # 11 examples in batches of 5, 5, 1: of the last, rank 0 has none. Windows of 2 batches, 2 per epoch.
    settings: dict[str, Any] = {
        "batch_size": 5,
        "gradient_accumulation_steps": 2,
        "epochs": 3,
        "learning_rate": 0.02,
        "max_grad_norm": 0.05,
        "log_every": 1,
        "dashboard": False,
    }
    config = TrainingConfig(checkpoint_dir=str(run_dir), strategy=strategy, **(settings | changes))
    seen = Losses()
    task = TaskSpec.language_modeling(vocab_size=VOCABULARY)
    trainer = Trainer(SmallLM(dropout), config, task=task, hooks=seen, tokenizer=Letters())
    try:
        with signal_after(interrupt):
            result = trainer.train(Sequences(11), Sequences(7), resume=resume)
    except Stopped as stop:
        result = stop.result
    return {
        "steps": seen.steps,
        "status": result.status,
        "exit_code": result.exit_code,
        "num_steps": result.steps,
        "tokens": result.tokens,
        "val": [(row["val/loss"], row["val/bits_per_byte"]) for row in result.epochs],
    }


def weights(run_dir: Path, step: int) -> dict[str, Tensor]:
    from torchstone.tracking.checkpoint import open_checkpoint

    return open_checkpoint(run_dir / "checkpoints" / f"step-{step}").tensors()
