"""Runs of a Weights & Biases export as recorded runs: what `wandb.Api().runs` gives, saved as JSON or CSV.

A JSON export is a list of objects with `id`, `name`, `state`, `tags`, `config`, `summary`, `metadata` and, if
wanted, `history`. A CSV export has columns `config` and `summary` that hold objects (as in W&B's own
example), or one column per value, called `config.KEY` and `summary.KEY`. docs/publish.md shows how.

Facts are looked for under the names that trainers use; `[wandb]` in the claim file says other ones.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone._errors import DataError, UsageError
from torchstone.report.run_info import perplexity
from torchstone.study.claim.recorded import FACTS, Reading, RecordedRun, Statement, flat, states

NAMES: dict[str, tuple[str, ...]] = {
    fact: tuple(places.split())
    for fact, places in {
        "seed": "config.seed config.random_seed config.train.random_seed config.manual_seed",
        "data": "config.dataset config.dataset_name config.data.source config.data_path config.data_dir",
        "evaluation": "config.eval_dataset config.eval_protocol",
        "compile_status": "config.compile config.torch_compile config.train.compile",
        "effective_batch": "config.effective_batch config.effective_batch_size config.global_batch_size "
        "config.total_batch_size",
        "steps": "summary.train/global_step summary.trainer/global_step summary.global_step summary.iter "
        "summary.iteration summary.step summary._step",
        "tokens": "summary.train/num_input_tokens_seen summary.num_input_tokens_seen summary.tokens",
        "seconds": "summary._runtime summary._wandb.runtime",
        "planned_steps": "config.max_steps config.max_iters config.train.max_steps config.total_steps",
        "commit": "metadata.git.commit metadata.commit",
        "method": "config.method",
    }.items()
}
"""Fact -> places, of which the first that is there counts."""
PER_DEVICE = ("config.per_device_train_batch_size",)
BATCH = ("config.batch_size", "config.train_batch_size", "config.micro_batch_size", "config.train.batch_size")
ACCUMULATION = (
    "config.gradient_accumulation_steps",
    "config.gradient_accumulation",
    "config.train.gradient_accumulation_steps",
)
_HEAD = ("id", "name", "state", "tags", "group")
_STATES = {"finished": "completed"}
_INTERNAL = ("_wandb", "wandb_version")


def read_export(
    path: Path, wanted: Sequence[tuple[str, str]], reading: Reading, places: Mapping[str, str]
) -> list[RecordedRun]:
    """Runs of the export that carry all of `wanted`; none is a UsageError."""
    records = [each for each in _records(path) if _has(each, wanted)]
    if not records:
        said = ",".join(f"{key}={value}" for key, value in wanted) or "anything"
        raise UsageError(f"no run of the export has {said}", where=str(path))
    return [_run(each, path, reading, places) for each in records]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the export cannot be read", where=str(path), why=str(error)) from None
    rows = _rows_of_json(text, path) if path.suffix == ".json" else _rows_of_csv(text, path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"run {number} of the export is no object", where=str(path))
        head = {name: row.get(name) for name in _HEAD}
        parts = {name: _object(row.get(name), name, path) for name in ("config", "summary", "metadata")}
        yield {
            **head,
            "number": number,
            "config": flat({key: _unwrapped(value) for key, value in parts["config"].items()}),
            "summary": flat(parts["summary"]),
            "metadata": flat(parts["metadata"]),
            "history": row.get("history") or [],
        }


def _rows_of_json(text: str, path: Path) -> list[Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError("the export is not JSON", where=f"{path}:{error.lineno}", why=error.msg) from None
    rows = found.get("runs") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not rows:
        raise DataError("the export holds no runs", where=str(path), why="it must be a list of objects")
    return rows


def _rows_of_csv(text: str, path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a cell may hold a whole configuration
    table = csv.DictReader(io.StringIO(text, newline=""))
    names = [name for name in table.fieldnames or () if name]  # pandas leaves its index without a name
    parts = ("config", "summary", "metadata")
    vague = [
        name for name in names if name.lower() not in (*_HEAD, *parts) and name.partition(".")[0] not in parts
    ]
    if vague:
        raise DataError(
            f"the export does not say whether {vague[0]!r} is configuration or a result",
            where=f"{path}:1",
            why=f"columns: {', '.join(vague[:6])}{' ...' if len(vague) > 6 else ''}",
            next="call columns config.KEY or summary.KEY, or export JSON (docs/publish.md)",
        )
    for row in table:
        made: dict[str, Any] = {name: {} for name in parts}
        for name in names:
            part, _, key = name.partition(".")
            if key:
                if row[name] not in ("", None):
                    made[part][key] = _scalar(row[name])
            else:
                made[name.lower()] = row[name]
        yield made


def _object(value: Any, name: str, path: Path) -> dict[str, Any]:
    """An object, or the text of one as JSON or as Python writes it."""
    if isinstance(value, str) and value.strip():
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError):
                continue
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{name} of a run is no object", where=str(path), why=f"it is {str(value)[:60]!r}")
    return value


def _unwrapped(value: Any) -> Any:
    """Configuration values may come as `{"value": 1, "desc": null}`."""
    return (
        value["value"]
        if isinstance(value, dict) and "value" in value and value.keys() <= {"value", "desc"}
        else value
    )


def _scalar(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _has(record: Mapping[str, Any], wanted: Sequence[tuple[str, str]]) -> bool:
    for key, value in wanted:
        if key == "tag":
            tags = record["tags"] or []
            holds = value in (tags if isinstance(tags, list) else str(tags).replace(";", ",").split(","))
        elif key in ("id", "name", "group", "state"):
            holds = str(record[key]) == value
        elif key.startswith("config."):
            holds = str(record["config"].get(key.removeprefix("config."))) == value
        else:
            raise UsageError(
                f"runs of an export are not found by {key!r}",
                next="use tag, name, group, id, state or config.KEY",
            )
        if not holds:
            return False
    return True


def _run(record: Mapping[str, Any], path: Path, reading: Reading, places: Mapping[str, str]) -> RecordedRun:
    found: dict[str, Any] = {}
    used: set[str] = set()
    for fact, names in NAMES.items():
        for place in (places[fact],) if fact in places else names:
            value = _at(record, place)
            if value is not None:
                found[fact] = _typed(fact, value)
                used.add(place.removeprefix("config."))
                break
    found |= {fact: _typed(fact, _at(record, place)) for fact, place in places.items() if fact not in NAMES}
    found.setdefault("value", _metric(record, reading))
    found.setdefault("hardware", _hardware(record["metadata"]))
    found.setdefault("software", _software(record))
    state = str(record["state"] or "unknown")
    statements = states(found | {"status": _STATES.get(state, state)}, str(path))
    made = _product(record, found.get("effective_batch"))
    if made is not None:
        stated = Statement(made, f"{path}: batch size x accumulation x devices")
        statements["effective_batch"] = (*statements.get("effective_batch", ()), stated)
    used |= {place.removeprefix("config.") for place in (*PER_DEVICE, *BATCH, *ACCUMULATION)}
    used |= {key for key in record["config"] if key.startswith(_INTERNAL)}
    return RecordedRun(
        run_id=str(record["id"] or record["name"] or f"run {record['number']}"),
        origin="wandb",
        where=str(path),
        statements=statements,
        config=record["config"],
        covered=frozenset(used & record["config"].keys()),
    )


def _at(record: Mapping[str, Any], place: str) -> Any:
    part, _, key = place.partition(".")
    return record[part].get(key)


def _typed(fact: str, value: Any) -> Any:
    """In the type that the fact has: exports hold 5000.0 for 5000, and true for compiled."""
    kind = FACTS[fact].kind
    if kind == "whole" and isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if kind == "text" and value is not None else value


def _product(record: Mapping[str, Any], stated: Any) -> int | None:
    """Batch x accumulation, where nothing else is stated or no reading of it agrees with what is.

    Trainers differ in whether their batch size is that of a device or of all; where the effective batch is
    stated, either reading may confirm it.
    """
    devices = int(record["metadata"].get("gpu_count") or 1)
    per_device = _first(record, PER_DEVICE)
    batch = per_device if per_device is not None else _first(record, BATCH)
    if batch is None:
        return None
    accumulation = _first(record, ACCUMULATION) or 1
    plain, spread = int(batch * accumulation), int(batch * accumulation * devices)
    if stated is None:
        return plain if per_device is None else spread
    return None if stated in (plain, spread) else spread


def _first(record: Mapping[str, Any], places: Sequence[str]) -> Any:
    found = (_at(record, place) for place in places)
    return next((value for value in found if isinstance(value, int | float)), None)


def _metric(record: Mapping[str, Any], reading: Reading) -> float | None:
    found = _number(record, reading.metric, reading)
    if found is None and reading.loss is not None:
        loss = _number(record, reading.loss, reading)
        found = None if loss is None else perplexity(loss)
    return found


def _number(record: Mapping[str, Any], key: str, reading: Reading) -> float | None:
    summary: Mapping[str, Any] = record["summary"]
    if reading.at == "end":
        value = summary.get(key, summary.get(f"{key}.last"))
        return float(value) if isinstance(value, int | float) else None
    choose = min if reading.direction == "lower" else max
    rows = [row.get(key) for row in record["history"]]
    values = [value for value in rows if isinstance(value, int | float) and math.isfinite(value)]
    kept = summary.get(f"{key}.{choose.__name__}")  # where the run was told to keep its best
    return choose(values) if values else kept


def _hardware(metadata: Mapping[str, Any]) -> str | None:
    if metadata.get("gpu"):
        return f"{metadata.get('gpu_count') or 1} x {metadata['gpu']}"
    return f"cpu, {metadata['cpu_count']} cores" if metadata.get("cpu_count") else None


def _software(record: Mapping[str, Any]) -> str | None:
    config, metadata = record["config"], record["metadata"]
    torch = config.get("torch_version") or config.get("pytorch_version")
    parts = {
        "torch": torch,
        "Python": metadata.get("python"),
        "CUDA": metadata.get("cuda_version") or metadata.get("cuda"),
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value) or None
