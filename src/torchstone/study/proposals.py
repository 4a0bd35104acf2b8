"""Optuna's side of a search: who proposes, who prunes, and which knobs mattered."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

from torchstone._optional import require

if TYPE_CHECKING:
    from optuna.study import Study

PRUNERS = ("median", "hyperband", "none")
SAMPLERS = ("tpe", "random")


def optuna_itself() -> Any:
    optuna: Any = require("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def pruner_of(name: str) -> Any:
    pruners = optuna_itself().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    return pruners.HyperbandPruner() if name == "hyperband" else pruners.NopPruner()


def sampler_of(name: str, seed: int, number: int) -> Any:
    """Seeded anew for each trial, so that a search that went on proposes what it would have."""
    samplers, seed = optuna_itself().samplers, _mixed(seed, number)
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `multivariate` is called experimental
        return samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _mixed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def importances(study: Study) -> dict[str, float]:
    """Ped-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): what good trials have in common; needs ten."""
    optuna = optuna_itself()
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(done) < 10:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
        except (ValueError, RuntimeError):  # no knob varied over the trials
            return {}
