"""What goes into the store and what comes out of it: plain records, no database here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple


class MetricRow(NamedTuple):
    """One value of one metric. `at` is seconds since 1970 in UTC; 0.0 lets the store fill it in."""

    key: str
    step: int
    value: float
    at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run as the store knows it."""

    run_id: str
    name: str
    kind: str
    """`train`, `check`, ..."""
    status: str
    """`running`, `completed`, `interrupted` or `failed`; the run folder adds `created`."""
    run_dir: str
    started: float
    """Seconds since 1970, UTC."""
    ended: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it: times in ISO 8601, UTC."""
        ended = None if self.ended is None else iso(self.ended)
        return asdict(self) | {"started": iso(self.started), "ended": ended}


FACTS, DRIFT = "facts", "drift"
"""Kinds of events that several rooms read: fingerprints of a session; what became of a model's data since."""


@dataclass(frozen=True)
class Event:
    """Something that happened once: a checkpoint, a quarantine, rows lost."""

    kind: str
    at: float
    data: dict[str, Any]


def iso(seconds: float) -> str:
    """`2026-01-31T12:00:00+00:00`: one form everywhere, so that text sorts like time."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
