"""Which models there are, where each came from, and which of them is in use.

    registry = ModelRegistry("runs/store.db")
    model_id = registry.register_model("notes", None, "runs/notes/checkpoints/step-400", "causal-lm", "3f2a",
                                       {"val/loss": 1.3})
    registry.promote_model(model_id, "production")
    registry.get_model(name="notes", tag="production").version
    registry.verify_model(model_id)                 # what became of its files: nothing, or sentences

A model is a name and a version. A tag that is promoted moves: one version of a name holds it at a time, so
`production` or `candidate` are stages. The registry keeps where files lie and their hashes; it neither copies
nor deletes them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, delete, insert, select, update

from torchstone._errors import UsageError
from torchstone._files import altered, inventory
from torchstone._registry import suggest
from torchstone.tracking import schema
from torchstone.tracking.registered_model import Deletion, Export, RegisteredModel, from_rows
from torchstone.tracking.store import Store

ACTIVE, RETIRED = MODEL_STATUSES = ("active", "retired")
_ABOUT = "model registry"
_models, _tags, _exports = schema.registered_models, schema.model_tags, schema.model_exports


class NoSuchModelFile(UsageError, FileNotFoundError):
    """Nothing lies where a model is said to be."""


class ModelRegistry:
    """The models of one store. Every method that writes is one transaction."""

    def __init__(self, store: Store | str | Path | None = None) -> None:
        self.store = store if isinstance(store, Store) else Store.open(store)

    # Registering

    def register_model(
        self,
        name: str,
        version: str | None,
        checkpoint_path: str | Path,
        task_type: str,
        config_hash: str,
        metrics: Mapping[str, float],
        export_formats: Mapping[str, str | Path] | None = None,
        memory_req_gb: float | None = None,
        training_run_id: str | None = None,
        parent_model_id: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> int:
        """Enter a version of a model; its number. The files are hashed first.

        version: None takes the next whole number of this name.
        export_formats: format -> where it lies.
        data: fingerprints of what it was trained on, as in the facts of a run.
        """
        for each in (name, *tags, *([] if version is None else [version])):
            _require_word(each)
        if name.isdigit():
            raise UsageError(f"{name!r} is no name", why="a number alone means the model of that number")
        files = _hashed(checkpoint_path)
        exports = {each: (str(path), _hashed(path)) for each, path in (export_formats or {}).items()}
        row = {
            "name": name, "task_type": task_type, "status": ACTIVE, "files": _json(files),
            "checkpoint_path": str(Path(checkpoint_path).absolute()), "config_hash": config_hash,
            "run_id": training_run_id, "parent_id": parent_model_id, "created": time.time(),
            "metrics": _json(metrics), "data": _json(data or {}), "memory_gb": memory_req_gb,
            "metadata": _json(metadata or {}),
        }  # fmt: skip

        def enter(connection: Connection) -> int:
            taken = set(connection.execute(select(_models.c.version).where(_models.c.name == name)).scalars())
            if version in taken:
                raise UsageError(
                    f"there is a {name}@{version} already", next="give another version, or none for the next"
                )
            if parent_model_id is not None:
                _require(connection, parent_model_id)
            chosen = version or _next_version(taken)
            result = connection.execute(insert(_models).values(row | {"version": chosen}))
            model_id = int(cast(Any, result.inserted_primary_key)[0])
            for each in dict.fromkeys(tags):
                connection.execute(insert(_tags).values(model_id=model_id, tag=each, since=row["created"]))
            for form, (path, hashed) in exports.items():
                connection.execute(insert(_exports).values(_export_row(model_id, form, path, hashed, {})))
            return model_id

        return self._write(enter)

    def add_export_format(
        self,
        model_id: int,
        export_format: str,
        export_path: str | Path,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Say where a format of the model lies; one that was there before is replaced."""
        _require_word(export_format)
        row = _export_row(model_id, export_format, str(export_path), _hashed(export_path), metadata or {})

        def keep(connection: Connection) -> None:
            _require(connection, model_id)
            old = delete(_exports).where(_exports.c.model_id == model_id, _exports.c.format == export_format)
            connection.execute(old)
            connection.execute(insert(_exports).values(row))

        self._write(keep)

    # Finding

    def get_model(
        self,
        model_id: int | None = None,
        name: str | None = None,
        version: str | None = None,
        tag: str | None = None,
    ) -> RegisteredModel | None:
        """By number, by name and version, by tag, or a name's newest active version; None: there is none."""
        if model_id is None and name is None and tag is None:
            raise UsageError("which model?", next="give model_id, name (and version), or tag")
        found = [
            each
            for each in self._all()
            if model_id in (None, each.model_id)
            and name in (None, each.name)
            and version in (None, each.version)
            and (tag is None or tag in each.tags)
        ]
        if model_id is None and version is None and tag is None:
            found = [each for each in found if each.status == ACTIVE]
        if tag is not None and name is None and len({each.name for each in found}) > 1:
            names = ", ".join(sorted({each.name for each in found}))
            raise UsageError(f"models of several names are tagged {tag!r}", why=names, next="give the name")
        return max(found, key=lambda each: each.model_id, default=None)

    def find(self, text: str) -> RegisteredModel:
        """`7`, `NAME`, `NAME@VERSION` or `NAME@TAG`; UsageError if there is none."""
        name, at, which = text.partition("@")
        if text.isdigit():
            found = self.get_model(model_id=int(text))
        elif not at:
            found = self.get_model(name=name)
        else:
            found = self.get_model(name=name, version=which) or self.get_model(name=name, tag=which)
        if found is None:
            known = [each.label for each in self._all()]
            names = sorted({each.partition("@")[0] for each in known})
            why = suggest(text, [*names, *known]) or f"there are: {', '.join(names) or 'none'}"
            raise UsageError(f"there is no model {text!r}", why=why, next="torchstone registry list")
        return found

    def list_models(
        self,
        task_type: str | None = None,
        tag: str | None = None,
        status: str | None = ACTIVE,
        min_metric_value: float | None = None,
        metric_name: str | None = None,
        limit: int = 50,
        *,
        max_metric_value: float | None = None,
        search: str | None = None,
    ) -> list[RegisteredModel]:
        """Newest first. `status` None: retired ones too. `search` is looked for in all that is text."""
        if metric_name is None and (min_metric_value is not None or max_metric_value is not None):
            raise UsageError("a limit of which metric?", next="give metric_name")
        found = [
            each
            for each in reversed(self._all())
            if task_type in (None, each.task_type)
            and status in (None, each.status)
            and (tag is None or tag in each.tags)
            and (search is None or search.lower() in each.text())
            and _within(each.metrics.get(metric_name or ""), min_metric_value, max_metric_value)
        ]
        return found[:limit]

    def compare_models(
        self, model_ids: Iterable[int], metrics: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """A row for each model: what identifies it, and its metrics; by default all that any of them has."""
        models = [self._one(each) for each in model_ids]
        keys = metrics or list(dict.fromkeys(key for each in models for key in each.metrics))
        return [each.facts() | {key: each.metrics.get(key) for key in keys} for each in models]

    def get_model_lineage(self, model_id: int) -> list[RegisteredModel]:
        """The model and its ancestors, the oldest first."""
        model = self._one(model_id)
        models = {each.model_id: each for each in self._all()}
        line = [model]
        while (parent := line[0].parent_model_id) is not None:
            line.insert(0, models[parent])
        return line

    # Stages

    def promote_model(self, model_id: int, tag: str, remove_from_others: bool = True) -> None:
        """Give the tag to a model; other versions of its name lose it."""
        _require_word(tag)

        def move(connection: Connection) -> None:
            name, status = _require(connection, model_id)
            if status != ACTIVE:
                raise UsageError(f"model {model_id} is {status}", next="promote an active version")
            if remove_from_others:
                versions = select(_models.c.model_id).where(_models.c.name == name)
                others = delete(_tags).where(_tags.c.tag == tag, _tags.c.model_id.in_(versions))
                connection.execute(others.where(_tags.c.model_id != model_id))
            row = {"model_id": model_id, "tag": tag, "since": time.time()}
            statement = self.store.database.insert(_tags).values(row).on_conflict_do_nothing()
            connection.execute(statement)

        self._write(move)

    def retire_model(self, model_id: int) -> None:
        """Out of use, and still there to be asked; its tags go."""

        def retire(connection: Connection) -> None:
            _require(connection, model_id)
            connection.execute(delete(_tags).where(_tags.c.model_id == model_id))
            statement = update(_models).where(_models.c.model_id == model_id).values(status=RETIRED)
            connection.execute(statement)

        self._write(retire)

    def delete_model(self, model_id: int, force: bool = False, dry_run: bool = False) -> Deletion:
        """Forget a model; what goes and what stays. Children get its parent; files are not touched.

        One that holds tags is refused unless `force`.
        """

        def forget(connection: Connection) -> Deletion:
            _require(connection, model_id)
            model = next(each for each in _read(connection) if each.model_id == model_id)
            children = select(_models.c.model_id).where(_models.c.parent_id == model_id)
            orphans = tuple(connection.execute(children.order_by(_models.c.model_id)).scalars())
            if model.tags and not force:
                raise UsageError(
                    f"{model.label} is {', '.join(model.tags)}",
                    why="a model that is in use is not deleted by accident",
                    next="promote another version first, or --force",
                )
            if not dry_run:
                heirs = update(_models).where(_models.c.parent_id == model_id)
                connection.execute(heirs.values(parent_id=model.parent_model_id))
                for table in (_tags, _exports, _models):
                    connection.execute(delete(table).where(table.c.model_id == model_id))
            return Deletion(model=model, children=orphans, done=not dry_run)

        return self._write(forget)

    # Integrity

    def verify_model(self, model_id: int) -> list[str]:
        """Hash every file again: what is missing or changed, of the checkpoint and of each export."""
        model = self._one(model_id)
        problems = [f"checkpoint: {each}" for each in altered(Path(model.checkpoint_path), model.files)]
        for export in model.exports:
            found = altered(Path(export.path), export.files)
            problems += [f"{export.format}: {each}" for each in found]
        return problems

    @staticmethod
    def compute_config_hash(config: Mapping[str, Any]) -> str:
        """SHA-256 of the configuration as JSON with sorted keys."""
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()

    def _one(self, model_id: int) -> RegisteredModel:
        return self.find(str(model_id))

    def _all(self) -> list[RegisteredModel]:
        return self.store.database.read(_read)

    def _write(self, work: Any) -> Any:
        return self.store.database.write(work, about=_ABOUT)


def _read(connection: Connection) -> list[RegisteredModel]:
    tags: dict[int, list[str]] = {}
    for row in connection.execute(select(_tags).order_by(_tags.c.tag)):
        tags.setdefault(row.model_id, []).append(row.tag)
    exports: dict[int, list[Export]] = {}
    for row in connection.execute(select(_exports).order_by(_exports.c.format)):
        made = Export(row.format, row.path, json.loads(row.files), json.loads(row.metadata))
        exports.setdefault(row.model_id, []).append(made)
    rows = connection.execute(select(_models).order_by(_models.c.model_id)).all()
    return [from_rows(row, tags.get(row.model_id, ()), exports.get(row.model_id, ())) for row in rows]


def _require(connection: Connection, model_id: int) -> tuple[str, str]:
    """(name, status) of a model that must be there."""
    query = select(_models.c.name, _models.c.status).where(_models.c.model_id == model_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise UsageError(f"there is no model {model_id}", next="torchstone registry list")
    return row.name, row.status


def _next_version(taken: Iterable[str]) -> str:
    return str(max((int(each) for each in taken if each.isdigit()), default=0) + 1)


def _hashed(path: str | Path) -> dict[str, dict[str, Any]]:
    files = inventory(Path(path)) if Path(path).exists() else {}
    if not files:
        raise NoSuchModelFile(
            f"there is no model at {path}", next="give a file, or a folder that holds files"
        )
    return files


def _export_row(
    model_id: int, form: str, path: str, files: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "model_id": model_id, "format": form, "path": str(Path(path).absolute()), "files": _json(files),
        "metadata": _json(metadata),
    }  # fmt: skip


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


def _require_word(text: str) -> None:
    if not text or text != text.strip() or any(each in text for each in "@,\n") or text.startswith("-"):
        raise UsageError(f"{text!r} is no name, version or tag", why="it is a word without '@' and commas")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
