"""torchstone: the touchstone for transformers.

The names below are imported when first used, so that `import torchstone` costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone._lazy import lazily
from torchstone._version import __version__

_HOMES = {
    "load": "torchstone.adapt.load",
    "LoadedModel": "torchstone.adapt.load",
    "Adapter": "torchstone.adapt.adapter",
    "Output": "torchstone.adapt.output",
    "check": "torchstone.checks.run",
    "evaluate": "torchstone.train.evaluate",
    "fine_tuning": "torchstone.train.fine_tuning",
    "benchmark_comparison": "torchstone.train.head_to_head",
    "amp_speedup": "torchstone.train.amp",
    "glue": "torchstone.train.glue",
    "hyperparameter_search": "torchstone.study.hyperparameter_search",
    "CheckReport": "torchstone.checks.report",
    "CheckResult": "torchstone.tracking.records",
    "TaskSpec": "torchstone.data.task",
    "Trainer": "torchstone.train.trainer",
    "TrainingConfig": "torchstone.train.config",
    "TorchstoneError": "torchstone._errors",
    "UntrustedCode": "torchstone._errors",
}

# `ts.adapt(module)` is the room torchstone.adapt itself, which can be called.
__all__ = ["__version__", "adapt", *_HOMES]

if TYPE_CHECKING:
    from torchstone._errors import TorchstoneError as TorchstoneError
    from torchstone._errors import UntrustedCode as UntrustedCode
    from torchstone.adapt.adapter import Adapter as Adapter
    from torchstone.adapt.adapter import adapt as adapt
    from torchstone.adapt.load import LoadedModel as LoadedModel
    from torchstone.adapt.load import load as load
    from torchstone.adapt.output import Output as Output
    from torchstone.checks.report import CheckReport as CheckReport
    from torchstone.checks.run import check as check
    from torchstone.data.task import TaskSpec as TaskSpec
    from torchstone.study.hyperparameter_search import hyperparameter_search as hyperparameter_search
    from torchstone.tracking.records import CheckResult as CheckResult
    from torchstone.train.amp import amp_speedup as amp_speedup
    from torchstone.train.config import TrainingConfig as TrainingConfig
    from torchstone.train.evaluate import evaluate as evaluate
    from torchstone.train.fine_tuning import fine_tuning as fine_tuning
    from torchstone.train.glue import glue as glue
    from torchstone.train.head_to_head import benchmark_comparison as benchmark_comparison
    from torchstone.train.trainer import Trainer as Trainer

_getattr, __dir__ = lazily(__name__, _HOMES)


def __getattr__(name: str) -> object:
    if name == "adapt":
        import importlib

        return importlib.import_module("torchstone.adapt")
    return _getattr(name)
