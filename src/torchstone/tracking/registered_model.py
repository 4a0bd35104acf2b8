"""One version of a model as the registry knows it: plain records, no database here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from torchstone.tracking.rows import iso

Files = Mapping[str, Mapping[str, Any]]
"""Name -> bytes and sha256, as `_files.inventory` tells them."""


@dataclass(frozen=True)
class Export:
    """A form in which the model was written down for others."""

    format: str
    path: str
    files: Files
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    model_id: int
    name: str
    version: str
    status: str
    """active or retired."""
    tags: tuple[str, ...]
    task_type: str
    checkpoint_path: str
    files: Files
    config_hash: str
    training_run_id: str | None
    parent_model_id: int | None
    created_at: str
    """ISO 8601, UTC."""
    metrics: Mapping[str, float]
    data: Mapping[str, Any]
    """Fingerprints of what it was trained on."""
    exports: tuple[Export, ...]
    memory_req_gb: float | None
    metadata: Mapping[str, Any]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def sha256(self) -> str:
        """Of all files of the checkpoint: two models with the same one have the same content."""
        listed = {name: file["sha256"] for name, file in sorted(self.files.items())}
        return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()

    @property
    def model_size_mb(self) -> float:
        """Of the weights: `*.safetensors` and single files; of a checkpoint not the optimizer's state."""
        sizes = {name: int(file["bytes"]) for name, file in self.files.items()}
        weights = {name: size for name, size in sizes.items() if Path(name).name == "model.safetensors"}
        return sum((weights or sizes).values()) / 1e6

    def facts(self) -> dict[str, Any]:
        """What a row of a comparison says beside the metrics."""
        names = ("model_id", "name", "version", "task_type", "created_at", "status", "memory_req_gb")
        return {each: getattr(self, each) for each in names} | {"model_size_mb": self.model_size_mb}

    def text(self) -> str:
        """All of it that is searched, in lower case."""
        told = [self.name, self.version, self.task_type, self.checkpoint_path, self.config_hash]
        told += [self.training_run_id or "", *self.tags, *(each.format for each in self.exports)]
        return "\n".join([*told, json.dumps([dict(self.data), dict(self.metadata)], default=str)]).lower()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sha256": self.sha256, "model_size_mb": self.model_size_mb}


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What a deletion takes away, or would."""

    model: RegisteredModel
    children: tuple[int, ...]
    """Models that get its parent as theirs."""
    done: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "model_id": self.model.model_id,
            "label": self.model.label,
            "tags": list(self.model.tags),
            "exports": [each.format for each in self.model.exports],
            "children": list(self.children),
            "files_kept": [self.model.checkpoint_path, *(each.path for each in self.model.exports)],
            "deleted": self.done,
        }


def from_rows(row: Row[Any], tags: Sequence[str], exports: Sequence[Export]) -> RegisteredModel:
    return RegisteredModel(
        model_id=row.model_id,
        name=row.name,
        version=row.version,
        status=row.status,
        tags=tuple(tags),
        task_type=row.task_type,
        checkpoint_path=row.checkpoint_path,
        files=json.loads(row.files),
        config_hash=row.config_hash,
        training_run_id=row.run_id,
        parent_model_id=row.parent_id,
        created_at=iso(row.created),
        metrics=json.loads(row.metrics),
        data=json.loads(row.data),
        exports=tuple(exports),
        memory_req_gb=row.memory_gb,
        metadata=json.loads(row.metadata),
    )
