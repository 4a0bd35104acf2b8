"""Where metric rows wait while the store is out of reach: `metrics.spill.jsonl` in the run folder.

One JSON line per row. Rows come back with `absorb` when the store answers again; because a row exists once in
the store, absorbing twice does no harm.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

SPILL_NAME = "metrics.spill.jsonl"


def append(path: Path, rows: Sequence[MetricRow]) -> None:
    """Add `rows` at the end of the file, on the disk for good. Raises OSError where it cannot be written."""
    text = "".join(json.dumps([str(row.key), row.step, _as_text(row.value), row.at]) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[MetricRow]:
    """Rows of the file; a line that a killed process left half-written is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            key, step, value, at = json.loads(line)
            rows.append(MetricRow(str(key), int(step), float(value), float(at)))
        except (ValueError, TypeError):
            continue
    return rows


def absorb(store: Store, run_id: str, path: Path) -> int:
    """Move the rows of a spill file into the store; how many there were. The file goes when they are safe."""
    if not path.is_file():
        return 0
    rows = read(path)
    store.log_rows(run_id, rows)
    path.unlink()
    return len(rows)


def _as_text(value: float) -> float | str:
    # JSON knows no NaN and no infinity; float() reads these words back.
    return value if math.isfinite(value) else str(value)
