"""Read the `run-ID.wandb` files of W&B's offline folders: what `wandb sync` would upload.

The file is a log in LevelDB's format (blocks of 32 KiB; each piece has a checksum, a length and a kind, and a
record may go on in the next block) after a header of seven bytes. A record is one of W&B's protocol buffers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone._errors import DataError
from torchstone._optional import require
from torchstone.tracking.rows import MetricRow

_BLOCK = 32 * 1024
_HEADER = struct.Struct("<4sHB")
_MAGIC = (b":W&B", 0xBEE1, 0)
_PIECE = struct.Struct("<IHB")
_WHOLE, _FIRST, _LAST = 1, 2, 4


@dataclass
class WandbRun:
    """One offline run."""

    run_id: str = ""
    name: str = ""
    started: float = 0.0
    """Seconds since 1970, UTC."""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[MetricRow] = field(default_factory=list)
    exit_code: int | None = None
    """None: the file ends before the run did."""


def read_wandb(path: Path) -> WandbRun:
    """What a file holds, up to where a killed process stopped writing it; needs the extra `[wandb]`."""
    record_type = require("wandb.proto.wandb_internal_pb2", "wandb").Record
    found = WandbRun()
    for data in _records(path):
        record = record_type.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run_id, found.name = record.run.run_id, record.run.display_name or record.run.run_id
            found.started = record.run.start_time.ToMicroseconds() / 1e6
            found.config |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
        elif kind == "config":
            found.config |= {each.key: json.loads(each.value_json) for each in record.config.update}
        elif kind == "history":
            found.rows += _rows(record.history)
        elif kind == "exit":
            found.exit_code = int(record.exit.exit_code)
    found.config.pop("_wandb", None)
    return found


def _rows(history: Any) -> Iterator[MetricRow]:
    """The numbers of one step; W&B's own fields begin with an underscore."""
    values = {".".join(each.nested_key) or each.key: json.loads(each.value_json) for each in history.item}
    at = float(values.get("_timestamp", 0.0))
    step = int(history.step.num) if history.HasField("step") else int(values.get("_step", 0))
    for key, value in values.items():
        if not key.startswith("_") and (number := as_number(value)) is not None:
            yield MetricRow(key, step, number, at)


def as_number(value: object) -> float | None:
    """A value of a tracker's JSON, which has words for what JSON has not; None: it is no number."""
    if isinstance(value, str):
        return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value)
    return float(value) if isinstance(value, int | float) else None


def _records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    if len(data) < _HEADER.size or _HEADER.unpack_from(data) != _MAGIC:
        raise DataError("this is no run file of W&B", where=str(path))
    place, parts = _HEADER.size, b""
    while place + _PIECE.size <= len(data):
        room = _BLOCK - place % _BLOCK
        if room < _PIECE.size:  # the rest of a block that no piece fits in
            place += room
            continue
        _, length, kind = _PIECE.unpack_from(data, place)
        place += _PIECE.size
        if place + length > len(data) or (kind == 0 and length == 0):
            return
        parts = (
            data[place : place + length] if kind in (_WHOLE, _FIRST) else parts + data[place : place + length]
        )
        place += length
        if kind in (_WHOLE, _LAST):
            yield parts
