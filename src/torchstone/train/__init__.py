"""Training: `run.py` is the recipe of a job, `engine.py` the loop, `step.py` one step of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily

__all__ = [
    "SECTIONS",
    "LoopConfig",
    "Stopped",
    "TrainJob",
    "TrainResult",
    "Trainer",
    "TrainingConfig",
    "TrainingCoordinator",
    "UniversalModelAdapter",
    "list_checkpoints",
    "recover_training_results",
]

if TYPE_CHECKING:
    from torchstone.train.config import SECTIONS as SECTIONS
    from torchstone.train.config import LoopConfig as LoopConfig
    from torchstone.train.lightning import TrainingCoordinator as TrainingCoordinator
    from torchstone.train.lightning import UniversalModelAdapter as UniversalModelAdapter
    from torchstone.train.recovery import list_checkpoints as list_checkpoints
    from torchstone.train.recovery import recover_training_results as recover_training_results
    from torchstone.train.result import Stopped as Stopped
    from torchstone.train.result import TrainResult as TrainResult
    from torchstone.train.run import TrainJob as TrainJob
    from torchstone.train.trainer import Trainer as Trainer
    from torchstone.train.training_config import TrainingConfig as TrainingConfig

__getattr__, __dir__ = lazily(
    __name__,
    {
        "SECTIONS": "torchstone.train.config",
        "LoopConfig": "torchstone.train.config",
        "Stopped": "torchstone.train.result",
        "TrainJob": "torchstone.train.run",
        "TrainResult": "torchstone.train.result",
        "Trainer": "torchstone.train.trainer",
        "TrainingConfig": "torchstone.train.training_config",
        "list_checkpoints": "torchstone.train.recovery",
        "recover_training_results": "torchstone.train.recovery",
        "TrainingCoordinator": "torchstone.train.lightning",
        "UniversalModelAdapter": "torchstone.train.lightning",
    },
)
