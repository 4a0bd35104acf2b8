"""Studies: axes or steps become cells, every step is proven before it costs, cells are run and compared."""

from __future__ import annotations

from torchstone._lazy import lazily

_HOMES = {
    "Arm": "torchstone.study.records",
    "Cell": "torchstone.study.records",
    "Plan": "torchstone.study.plan",
    "Study": "torchstone.study.records",
    "plan_study": "torchstone.study.plan",
    "prove": "torchstone.study.prove.proof",
    "read_study": "torchstone.study.study_file",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
