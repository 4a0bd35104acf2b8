"""What a training job gives back, and its forms: attributes, familiar keys, JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone._errors import Interrupted
from torchstone._optional import available

SCHEMA = "torchstone.train/1"


@dataclass(frozen=True, kw_only=True)
class TrainResult(Mapping[str, Any]):
    """`result.final["val/loss"]`, or `result["val_loss_history"]` for those who know that name."""

    run_id: str
    run_dir: str
    status: str
    """completed, interrupted, or planned (a dry run)."""
    steps: int = 0
    tokens: int = 0
    """Targets trained on, whatever they are."""
    unit: str = "tokens"
    """What they are: tokens, images, examples ..."""
    final: dict[str, float | None] = field(default_factory=dict)
    """`train/loss` of the last step, `val/loss` of the last validation."""
    best: dict[str, Any] = field(default_factory=dict)
    """`step`, `val/loss`, `checkpoint` of the best validation; None without one."""
    resumed_from: str | None = None
    seconds: float = 0.0
    reason: str = ""
    """Why it ended."""
    exit_code: int = 0
    run_name: str = ""
    checkpoint: str | None = None
    """The newest checkpoint."""
    model_path: str | None = None
    """The trained model's weights (averaged, where averages were kept); None unless the run is complete."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """One row per epoch."""
    warnings: list[str] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    """What a dry run would do, one line each."""
    sampler: Callable[[int, str | None], str] | None = field(default=None, repr=False, compare=False)

    def sample(self, num_tokens: int = 60, prompt: str | None = None) -> str | None:
        """Text by the trained model; None where it writes none (other task, or nothing was trained now)."""
        return None if self.sampler is None or num_tokens < 1 else self.sampler(num_tokens, prompt)

    def to_dict(self) -> dict[str, Any]:
        """The `torchstone.train/1` object."""
        fields: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "run_dir": self.run_dir,
            "status": self.status,
            "steps": self.steps,
            "tokens": self.tokens,
            "unit": self.unit,
            "final": dict(self.final),
            "best": dict(self.best),
            "resumed_from": self.resumed_from,
            "seconds": self.seconds,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "run_name": self.run_name,
            "checkpoint": self.checkpoint,
            "model_path": self.model_path,
            "epochs": [dict(row) for row in self.epochs],
            "warnings": list(self.warnings),
        }
        return fields | ({"plan": list(self.plan)} if self.plan else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainResult:
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        return cls(**known)

    # --- the familiar keys ------------------------------------------------------------------

    @property
    def metrics_summary(self) -> Any:
        """The epochs as a DataFrame; as a list of dictionaries where pandas is not installed."""
        if not available("pandas"):
            return list(self.epochs)
        import pandas

        return pandas.DataFrame(self.epochs)

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the lowest val/loss, or of the lowest train/loss where nothing was validated."""
        for name in ("val/loss", "train/loss"):
            scored = [row for row in self.epochs if row.get(name) is not None]
            if scored:
                return int(min(scored, key=lambda row: row[name])["epoch"])
        return None

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last epoch."""
        return self.epochs[-1]["train/loss"] if self.epochs else self.final.get("train/loss")

    @property
    def checkpoint_path(self) -> Path | None:
        """The best checkpoint, else the newest."""
        chosen = self.best.get("checkpoint") or self.checkpoint
        return Path(chosen) if chosen else None

    _FAMILIAR = (
        "metrics_summary",
        "best_epoch",
        "final_loss",
        "checkpoint_path",
        "training_time",
        "workspace_root",
        "run_name",
        "loss_history",
        "val_loss_history",
    )
    _OWN = (
        "run_id",
        "run_dir",
        "status",
        "steps",
        "tokens",
        "final",
        "best",
        "resumed_from",
        "seconds",
        "warnings",
    )

    @property
    def training_time(self) -> float:
        return self.seconds

    @property
    def workspace_root(self) -> Path:
        return Path(self.run_dir)

    @property
    def loss_history(self) -> list[float]:
        return [row["train/loss"] for row in self.epochs]

    @property
    def val_loss_history(self) -> list[float]:
        """Only epochs that were validated; no zeros stand for what was not measured."""
        return [row["val/loss"] for row in self.epochs if "val/loss" in row]

    def __getitem__(self, key: str) -> Any:
        if key in self._FAMILIAR or key in self._OWN:
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._FAMILIAR, *self._OWN))

    def __len__(self) -> int:
        return len(self._FAMILIAR) + len(self._OWN)


class Stopped(Interrupted):
    """A signal ended the training, the state is saved; `result` tells how far it came."""

    def __init__(self, result: TrainResult) -> None:
        super().__init__(
            f"training was stopped by {result.reason} after step {result.steps}",
            where=result.run_dir,
            why="the state is saved",
            next="continue with resume='auto'",
        )
        self.exit_code = result.exit_code
        self.result = result


def with_perplexity(row: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's row and the perplexities of its losses."""
    return dict(row) | {
        f"{split}/perplexity": perplexity(row[f"{split}/loss"])
        for split in ("train", "val")
        if row.get(f"{split}/loss") is not None
    }


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
