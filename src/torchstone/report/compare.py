"""Several runs side by side: what differs in their configuration first, then where each metric ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchstone._errors import UsageError
from torchstone.report.probes_info import is_probe
from torchstone.report.run_info import direction, flat_config, live_status
from torchstone.tracking.rows import RunRow
from torchstone.tracking.store import Direction, Store


@dataclass(frozen=True)
class Comparison:
    """`differences[key]` and `metrics[key]` hold one entry per run, in the order of `runs`; None: absent."""

    runs: list[RunRow]
    statuses: list[str]
    differences: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]

    def best(self, key: str) -> int | None:
        """Index of the run whose last value is best; None if fewer than two differ."""
        values = [(value, place) for place, value in enumerate(self.metrics[key]) if value is not None]
        values = [(value, place) for value, place in values if math.isfinite(value)]
        if len({value for value, _ in values}) < 2:
            return None
        return (min if direction(key) == "min" else max)(values, key=lambda pair: pair[0])[1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "torchstone.compare/1",
            "runs": [
                run.to_dict() | {"status": status, "config": None}
                for run, status in zip(self.runs, self.statuses, strict=True)
            ],
            "differences": self.differences,
            "metrics": self.metrics,
            "best": {
                key: None if (place := self.best(key)) is None else self.runs[place].run_id
                for key in self.metrics
            },
        }


def compare(store: Store, run_ids: Sequence[str]) -> Comparison:
    """Read runs by id or by unique beginning; an unknown one is an error."""
    runs = [store.run(run_id) for run_id in run_ids]
    ids = [run.run_id for run in runs]
    last = store.last_values(ids)
    keys = sorted({key for values in last.values() for key in values if not is_probe(key)})
    metrics: dict[str, list[float | None]] = {
        key: [last[run_id][key].value if key in last[run_id] else None for run_id in ids] for key in keys
    }
    return Comparison(runs, [live_status(run) for run in runs], config_differences(runs), metrics)


def config_differences(runs: Sequence[RunRow]) -> dict[str, list[Any]]:
    """Only the knobs whose values are not the same in all runs."""
    flats = [flat_config(run.config) for run in runs]
    keys = sorted({key for flat in flats for key in flat})
    rows = {key: [flat.get(key) for flat in flats] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def best_run(store: Store, key: str, mode: Direction | None = None) -> dict[str, Any]:
    """The run whose best value of `key`, at any step, is best of all."""
    mode = mode or direction(key)
    found = [(run, row) for run in store.runs() if (row := store.best(run.run_id, key, mode))]
    if not found:
        raise UsageError(
            f"no run has a finite value of {key!r}",
            where=store.where,
            next="torchstone runs show RUN lists the metrics of a run",
        )
    run, row = (min if mode == "min" else max)(found, key=lambda pair: pair[1].value)
    return {
        "run_id": run.run_id,
        "name": run.name,
        "run_dir": run.run_dir,
        "metric": key,
        "mode": mode,
        "value": row.value,
        "step": row.step,
    }
