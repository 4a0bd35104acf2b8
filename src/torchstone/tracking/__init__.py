"""What a run leaves behind: its folder, its checkpoints, its rows in the experiment store."""

from __future__ import annotations

from torchstone._lazy import lazily

_HOMES = {
    "CheckResult": "torchstone.tracking.records",
    "MetricRow": "torchstone.tracking.rows",
    "MetricWriter": "torchstone.tracking.writer",
    "RunFolder": "torchstone.tracking.run_folder",
    "RunRow": "torchstone.tracking.rows",
    "Store": "torchstone.tracking.store",
}

__all__ = ["CheckResult", "MetricRow", "MetricWriter", "RunFolder", "RunRow", "Store"]

__getattr__, __dir__ = lazily(__name__, _HOMES)
