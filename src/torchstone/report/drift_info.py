"""What became of a run's data after it was trained, as plain values; `drift_panels.py` draws four panels.

They come from the events `drift` of the run, which a monitor or a monitoring job wrote
(`drift/drift_record.py`). A distance colours a display and decides nothing: whether there was drift is the
verdict's word, in every panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchstone.report.numbers import number
from torchstone.tracking.rows import DRIFT, iso
from torchstone.tracking.store import Store

MOST_WINDOWS = 60
MATRIX_WINDOWS, MATRIX_FEATURES, TABLE_ROWS = 12, 8, 8


@dataclass(frozen=True)
class Histogram:
    """Shares of the rows of the feature that differs most, in the last window and in the reference."""

    feature: str
    edges: list[float]
    """Empty for classes."""
    classes: list[str]
    reference: list[float]
    new: list[float]


@dataclass(frozen=True)
class Course:
    """The largest distance of each window, and whether the verdict alarmed."""

    windows: list[int]
    distance: list[float]
    alarm: list[bool]


@dataclass(frozen=True)
class Matrix:
    """Distances of features (rows) in the last windows (columns); None: not measured then."""

    features: list[str]
    windows: list[int]
    distance: list[list[float | None]]
    alarm: list[list[bool]]


@dataclass(frozen=True)
class TableRow:
    """One feature in the last window, in words."""

    feature: str
    reference: str
    new: str
    distance: str
    p: str
    verdict: str
    alarm: bool


@dataclass(frozen=True)
class DriftInfo:
    status: str
    """healthy, warning or critical, of the last window."""
    sentence: str
    histogram: Histogram | None
    course: Course
    matrix: Matrix
    table: list[TableRow]
    omitted: int
    """Features that the table and the matrix leave out: those that differ least."""


def drift_info(store: Store, run_id: str) -> DriftInfo | None:
    """None where nobody watched this run's model."""
    events = store.events_of(DRIFT).get(store.run(run_id).run_id, ())
    return (
        of_records([event.data for event in events], [iso(event.at) for event in events]) if events else None
    )


def of_records(records: Sequence[Mapping[str, Any]], times: Sequence[str] = ()) -> DriftInfo:
    """The same of records at hand, the oldest first."""
    last = records[-1]
    ranked = sorted(last["features"], key=lambda each: (each["p_value"], -each["distance"]))
    shown = [each["feature"] for each in ranked[:MATRIX_FEATURES]]
    first = max(0, len(records) - MOST_WINDOWS)
    return DriftInfo(
        status=last["status"],
        sentence=_sentence(last, times[-1] if times else None, len(records)),
        histogram=_histogram(last),
        course=Course(
            list(range(first + 1, len(records) + 1)),
            [each["js_divergence"] for each in records[first:]],
            [each["alarm"] for each in records[first:]],
        ),
        matrix=_matrix(records, shown),
        table=[_row(each) for each in ranked[:TABLE_ROWS]],
        omitted=max(0, len(ranked) - TABLE_ROWS),
    )


def _sentence(record: Mapping[str, Any], at: str | None, windows: int) -> str:
    rows = " and ".join(f"{each:,}" for each in record["rows"])
    told = f"drift of {', '.join(record['affected_features'])}" if record["alarm"] else "no drift is seen"
    when = f" at {at}" if at else ""
    return f"window {windows}{when}: {told} ({rows} rows; false alarms {record['false_alarm_rate']:.1%})"


def _histogram(record: Mapping[str, Any]) -> Histogram | None:
    found = record.get("histogram")
    if found is None:
        return None
    return Histogram(
        found["feature"],
        found.get("edges") or [],
        found.get("classes") or [],
        found["reference"],
        found["new"],
    )


def _matrix(records: Sequence[Mapping[str, Any]], features: Sequence[str]) -> Matrix:
    kept = records[-MATRIX_WINDOWS:]
    by_name = [{each["feature"]: each for each in record["features"]} for record in kept]
    return Matrix(
        features=list(features),
        windows=list(range(len(records) - len(kept) + 1, len(records) + 1)),
        distance=[
            [each[name]["distance"] if name in each else None for each in by_name] for name in features
        ],
        alarm=[[name in each and each[name]["alarm"] for each in by_name] for name in features],
    )


def _row(feature: Mapping[str, Any]) -> TableRow:
    p = feature["p_value"]
    return TableRow(
        feature=feature["feature"],
        reference=number(feature["reference"], 3),
        new=number(feature["new"], 3),
        distance=f"{feature['distance']:.3f}",
        p="< 0.001" if p < 0.001 else f"{p:.3f}",
        verdict=f"drifted: {feature['aspect']}" if feature["alarm"] else "no drift",
        alarm=bool(feature["alarm"]),
    )
