"""What one run did, computed from the store; `dashboard.py`, the tables and the pages only draw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchstone.report.numbers import duration, number
from torchstone.tracking.marks import Marks, marks
from torchstone.tracking.rows import MetricRow, RunRow
from torchstone.tracking.run_folder import holder
from torchstone.tracking.store import Direction, Store

HIGHER_IS_BETTER = ("accuracy", "f1", "bleu", "rouge", "tokens_per_s", "samples_per_s", "precision", "recall")
# exp() of more than this is no perplexity that anybody compares; beyond it the curve would only show the cap.
_LARGEST_LOSS = 100.0


@dataclass(frozen=True)
class Series:
    """One curve: steps rise strictly; values may be NaN or infinite."""

    key: str
    steps: list[int]
    values: list[float]
    times: list[float]
    """Seconds since 1970, UTC."""

    @property
    def finite(self) -> list[tuple[int, float]]:
        """Points that can be drawn."""
        pairs = zip(self.steps, self.values, strict=True)
        return [(step, value) for step, value in pairs if math.isfinite(value)]


@dataclass(frozen=True)
class Best:
    """The best value of a metric and where it was reached."""

    key: str
    step: int
    value: float


@dataclass(frozen=True)
class RunInfo:
    """Everything that a report of one run shows."""

    run: RunRow
    status: str
    """As in the store; `killed` where the store says running and no process holds the folder."""
    series: dict[str, Series]
    last: dict[str, float]
    best: Best | None
    """Of `val/loss`, else of `train/loss`."""
    seconds: float | None
    steps: int
    events: list[tuple[str, float]] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)

    def summary(self) -> list[tuple[str, str]]:
        """Name and value pairs of the summary card."""
        settings = flat_config(self.run.config)
        rows = [("status", self.status), ("steps", number(self.steps))]
        for name, key in (
            ("learning rate", "optim.learning_rate"),
            ("batch", "train.batch_size"),
            ("seed", "train.random_seed"),
        ):
            if settings.get(key) is not None:
                rows.append((name, number(settings[key])))
        if self.best:
            rows.append(
                (f"best {self.best.key}", f"{number(self.best.value)} at step {number(self.best.step)}")
            )
        for name, key in (("train loss", "train/loss"), ("val loss", "val/loss")):
            if key in self.last:
                rows.append((f"last {name}", number(self.last[key])))
        if "val/accuracy" in self.last:
            rows.append(("last accuracy", f"{number(100 * self.last['val/accuracy'], 3)} %"))
        if "val/loss" in self.last:
            rows.append(("perplexity", number(perplexity(self.last["val/loss"]))))
        if self.seconds is not None:
            rows.append(("time", duration(self.seconds)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The object that `runs show --json` prints."""
        best = None
        if self.best:
            best = {"key": self.best.key, "step": self.best.step, "value": self.best.value}
        return {
            "schema": "torchstone.run/1",
            **self.run.to_dict(),
            "status": self.status,
            "steps": self.steps,
            "seconds": self.seconds,
            "last": self.last,
            "best": best,
            "tags": sorted(self.marks.tags),
            "invalid": self.marks.invalid,
            "points": {key: len(series.steps) for key, series in self.series.items()},
        }


def run_info(store: Store, run_id: str) -> RunInfo:
    """Read one run; `run_id` may be the unique beginning of an id."""
    run = store.run(run_id)
    series = _series(store.metrics(run.run_id))
    last = {key: each.values[-1] for key, each in series.items()}
    return RunInfo(
        run=run,
        status=live_status(run),
        series=series,
        last=last,
        best=_best(series),
        seconds=_seconds(run, series),
        steps=max((each.steps[-1] for each in series.values()), default=0),
        events=[(event.kind, event.at) for event in store.events(run.run_id)],
        marks=marks(store, [run.run_id])[run.run_id],
    )


def live_status(run: RunRow) -> str:
    """A run that was killed could not say so: its row still says running, but nobody holds its folder."""
    if run.status != "running" or run.kind != "train" or not run.run_dir:
        return run.status
    if not Path(run.run_dir).is_dir():
        return "missing"
    return "running" if holder(run.run_dir) is not None else "killed"


def direction(key: str) -> Direction:
    """Whether less or more of a metric is better."""
    return "max" if any(word in key for word in HIGHER_IS_BETTER) else "min"


def perplexity(loss: float) -> float:
    """exp(loss); infinite where a float or the eye cannot hold it."""
    return math.exp(loss) if loss <= _LARGEST_LOSS else (math.nan if math.isnan(loss) else math.inf)


def flat_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim": {"learning_rate": {"value": 1, "source": ...}}}` as `{"optim.learning_rate": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and "value" in value and "source" in value:
            flat[key] = value["value"]
        elif isinstance(value, dict):
            flat |= flat_config(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _series(rows: Sequence[MetricRow]) -> dict[str, Series]:
    series: dict[str, Series] = {}
    for key, step, value, at in rows:
        each = series.setdefault(key, Series(key, [], [], []))
        each.steps.append(step)
        each.values.append(value)
        each.times.append(at)
    return series


def _best(series: dict[str, Series]) -> Best | None:
    for key in ("val/loss", "train/loss"):
        if key in series and series[key].finite:
            step, value = min(series[key].finite, key=lambda point: (point[1], point[0]))
            return Best(key, step, value)
    return None


def _seconds(run: RunRow, series: dict[str, Series]) -> float | None:
    ends = [run.ended] if run.ended else [each.times[-1] for each in series.values()]
    return max(ends) - run.started if ends else None
