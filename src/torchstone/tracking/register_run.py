"""A model that a run trained, into the registry: where it comes from is read, not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone.tracking.checkpoint import Checkpoint
from torchstone.tracking.model_registry import ModelRegistry
from torchstone.tracking.rows import FACTS
from torchstone.tracking.run_folder import RunFolder


def register_checkpoint(
    registry: ModelRegistry,
    checkpoint: Checkpoint,
    name: str,
    version: str | None = None,
    *,
    parent_model_id: int | None = None,
    metrics: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
) -> int:
    """The model's number. Its task, configuration, metrics, run and data are those of the checkpoint.

    A run's bundle, where there is one, is entered as the export `bundle`.
    """
    home = checkpoint.path.parent.parent
    run = RunFolder.open(home) if RunFolder.exists(home) else None
    bundle = home / "bundle"
    return registry.register_model(
        name,
        version,
        checkpoint.path,
        str(checkpoint.model.get("task") or "unknown"),
        checkpoint.config_hash,
        checkpoint.metrics | dict(metrics or {}),
        {"bundle": bundle} if bundle.is_dir() else None,
        training_run_id=None if run is None else run.run_id,
        parent_model_id=parent_model_id,
        metadata={"step": checkpoint.step, "target": checkpoint.model.get("target")} | dict(metadata or {}),
        tags=tags,
        data={} if run is None else _data(registry, run.run_id),
    )


def _data(registry: ModelRegistry, run_id: str) -> dict[str, Any]:
    """Fingerprints of the run's last session; none where the run is in another store."""
    facts = registry.store.events_of(FACTS).get(run_id, ())
    return dict(facts[-1].data.get("data") or {}) if facts else {}


def home_of_model(checkpoint_path: str | Path) -> Path | None:
    """The run folder that a registered checkpoint lies in; None: it lies elsewhere."""
    home = Path(checkpoint_path).parent.parent
    return home if RunFolder.exists(home) else None
