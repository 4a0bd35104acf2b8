"""`fine_tuning`: a short training run by the engine, told under the names that users of the templates know.

    found = fine_tuning(model, train_data=rows, n_epochs=3)
    found["loss_history"], found["metrics_summary"], found["best_epoch"]

It is `Trainer` with the familiar arguments; what it returns is read off the run, nothing is computed twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstone.train.hooks import StepInfo
from torchstone.train.lessons import lessons
from torchstone.train.trainer import Trainer
from torchstone.train.training_config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from torchstone.adapt.adapter import Adapter
    from torchstone.adapt.load import LoadedModel
    from torchstone.data.task import TaskSpec

KEYS = (
    "loss_history",
    "final_loss",
    "initial_loss",
    "training_time_seconds",
    "samples_per_second",
    "metrics_summary",
    "best_epoch",
    "grad_norm_history",
    "amp_enabled",
    "final_loss_scale",
)
"""Of the result; others come after them."""
DRAWN = 50
"""Examples that are drawn where no data is given; a fifth of them is held out."""
DRAWN_LENGTH = 32
"""Tokens."""


def fine_tuning(
    model: nn.Module | LoadedModel | Adapter | str | Path,
    config: Any = None,
    train_data: Any = None,
    val_data: Any = None,
    n_epochs: int = 3,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.01,
    batch_size: int = 4,
    use_amp: bool = False,
    gradient_accumulation_steps: int = 1,
    gradient_clip_norm: float | None = 1.0,
    random_seed: int = 42,
    deterministic: bool = False,
    use_lr_schedule: bool = True,
    task_spec: TaskSpec | str | None = None,
    tokenizer: Any = None,
    run_dir: str | Path | None = None,
    device: str | None = None,
    hooks: Sequence[object] = (),
) -> dict[str, Any]:
    """Train `model` in place and return the keys of `KEYS`, `run_dir` and `val_loss_history`.

    loss_history and grad_norm_history hold one number per optimizer step; the norm is that before clipping.
    metrics_summary is a DataFrame, one row per epoch. samples_per_second counts validation and saving in.
    Without data, `lessons` are drawn. `config` is the model's, if it carries none.
    """
    trainer = Trainer(
        model if config is None or isinstance(model, str | Path) else _with(model, config),
        TrainingConfig(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            epochs=n_epochs,
            gradient_accumulation_steps=gradient_accumulation_steps,
            max_grad_norm=gradient_clip_norm,
            random_seed=random_seed,
            deterministic=deterministic,
            warmup_ratio=0.1 if use_lr_schedule else 0.0,
            schedule="cosine" if use_lr_schedule else "constant",
            use_amp=use_amp or None,
            dashboard=False,
            checkpoint_dir=None if run_dir is None else str(run_dir),
        ),
        task=task_spec,
        tokenizer=tokenizer,
        hooks=(steps := Steps(), *hooks),
        device=device,
    )
    if train_data is None:
        rows = lessons(trainer.loaded.adapter, DRAWN, length=_length(trainer), seed=random_seed)
        train_data, val_data = rows[: -DRAWN // 5], rows[-DRAWN // 5 :]
    began = time.monotonic()
    result = trainer.train(train_data, val_data)
    seconds = time.monotonic() - began
    return {
        "loss_history": steps.losses,
        "final_loss": steps.losses[-1],
        "initial_loss": steps.losses[0],
        "training_time_seconds": seconds,
        "samples_per_second": len(train_data) * len(result.epochs) / seconds,
        "metrics_summary": result.metrics_summary,
        "best_epoch": result.best_epoch,
        "grad_norm_history": steps.norms,
        "amp_enabled": use_amp,
        "final_loss_scale": None,  # bf16 needs none
        "val_loss_history": result.val_loss_history,
        "run_dir": result.run_dir,
    }


class Steps:
    """Loss and gradient norm of every optimizer step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_step(self, info: StepInfo) -> None:
        self.losses.append(info.loss)
        self.norms.append(info.grad_norm)


def _with(model: Any, config: Any) -> LoadedModel:
    """A module whose configuration lies beside it."""
    from torchstone.adapt.adapter import Adapter
    from torchstone.adapt.load import LoadedModel, load

    if isinstance(model, LoadedModel):
        return model
    loaded = load(model.module if isinstance(model, Adapter) else model)
    loaded.config = dict(config) if isinstance(config, dict) else dict(vars(config))
    return loaded


def _length(trainer: Trainer) -> int:
    limit = trainer.loaded.facts.max_seq_len
    return DRAWN_LENGTH if limit is None else min(DRAWN_LENGTH, limit)
