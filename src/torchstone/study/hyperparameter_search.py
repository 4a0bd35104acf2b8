"""`hyperparameter_search`: the search for a model that is made in Python, under the familiar name and keys.

    found = hyperparameter_search(lambda: Net(), train_data=rows, n_trials=10)
    found["best_params"], found["best_value"], found["all_trials"]

For a TARGET, several workers, resuming and pictures there is `torchstone search` (`study/search.py`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchstone._errors import UsageError
from torchstone._registry import suggest
from torchstone.study.proposals import optuna_itself
from torchstone.study.space import FAMILIAR
from torchstone.train.lessons import lessons
from torchstone.train.trainer import Trainer
from torchstone.train.training_config import TrainingConfig

if TYPE_CHECKING:
    from optuna.trial import Trial
    from torch import nn

    from torchstone.data.task import TaskSpec

EPOCHS = 2
DRAWN, DRAWN_LENGTH = 30, 32
"""Examples and tokens that are drawn where no data is given."""
SHORT = {"lr": "learning_rate", "warmup": "warmup_ratio", "wd": "weight_decay"}
"""Other names of fields of TrainingConfig."""
SPACE = {key.rpartition(".")[2]: wish for key, wish in FAMILIAR.items()}
"""Fields of TrainingConfig bear the names of the knobs that they stand for."""


def hyperparameter_search(
    model_factory: Callable[[], nn.Module],
    config: Any = None,
    train_data: Sequence[Any] | None = None,
    n_trials: int = 10,
    search_space: Mapping[str, Any] | None = None,
    random_seed: int = 42,
    deterministic: bool = False,
    *,
    val_data: Sequence[Any] | None = None,
    task: TaskSpec | str | None = None,
    tokenizer: Any = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Train a new model of the factory for two epochs in each trial; TPE with a fixed seed proposes.

    The value of a trial is its lowest validation loss, or, without `val_data`, the mean training loss of its
    epochs. `search_space`: field of TrainingConfig -> a list of values, (low, high), or a dictionary with
    low, high, log and step. `config` is a TrainingConfig with what all trials share. Returns best_params,
    best_value, n_trials and all_trials ({number, value, params}; the value of a trial that failed is None).
    """
    optuna = optuna_itself()
    space = _readable(search_space or SPACE)
    shared = {} if config is None else _set_fields(config)
    rows = train_data

    def value(trial: Trial) -> float:
        nonlocal rows
        chosen = {name: _suggest(trial, name, wish) for name, wish in space.items()}
        with tempfile.TemporaryDirectory(prefix="torchstone-search-") as folder:
            quiet = {"epochs": EPOCHS, "dashboard": False, "keep_last": 1, "checkpoint_every": 1_000_000}
            fixed = {
                "random_seed": random_seed,
                "deterministic": deterministic,
                "checkpoint_dir": f"{folder}/run",
            }
            trainer = Trainer(
                model_factory(), TrainingConfig(**{**quiet, **shared, **fixed, **chosen}),
                task=task, tokenizer=tokenizer, device=device,
            )  # fmt: skip
            if rows is None:
                limit = trainer.loaded.facts.max_seq_len or DRAWN_LENGTH
                rows = lessons(
                    trainer.loaded.adapter, DRAWN, length=min(DRAWN_LENGTH, limit), seed=random_seed
                )
            result = trainer.train(rows, val_data)
        losses = result.val_loss_history
        return min(losses) if losses else sum(result.loss_history) / len(result.loss_history)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=random_seed), direction="minimize"
        )
        study.optimize(value, n_trials=n_trials)
    return {
        "best_params": study.best_params,
        "best_value": study.best_value,
        "n_trials": len(study.trials),
        "all_trials": [
            {"number": each.number, "value": each.value, "params": each.params} for each in study.trials
        ],
    }


def _readable(space: Mapping[str, Any]) -> dict[str, Any]:
    known = TrainingConfig.__dataclass_fields__
    found = {SHORT.get(name, name): wish for name, wish in space.items()}
    for name in found:
        if name not in known:
            raise UsageError(
                f"there is nothing to search under {name!r}",
                why=suggest(name, [*known, *SHORT]),
                next="name a field of TrainingConfig",
            )
    return found


def _suggest(trial: Trial, name: str, wish: Any) -> Any:
    if isinstance(wish, list):
        return trial.suggest_categorical(name, wish)
    told = {"low": wish[0], "high": wish[1]} if isinstance(wish, tuple) else dict(wish)
    low, high = told.pop("low"), told.pop("high")
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, **told)
    return trial.suggest_float(name, low, high, **told)


def _set_fields(config: Any) -> dict[str, Any]:
    if not isinstance(config, TrainingConfig):
        raise UsageError(
            f"a {type(config).__name__} tells no knobs of training",
            next="config=TrainingConfig(...), or None",
        )
    return {name: getattr(config, name) for name in config.set_fields()}
