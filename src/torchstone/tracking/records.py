"""Records that several rooms exchange: the result of one check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["pass", "warn", "fail", "skip", "error"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found. A check that could not run says `skip` and `why`, never `pass`."""

    id: str
    """Name of the check, such as `causal-leak`."""
    tier: int
    status: Status
    summary: str
    """One sentence."""
    measured: float | None = None
    limit: float | None = None
    unit: str | None = None
    module: str | None = None
    """Dotted name of the guilty module, where there is one."""
    why: str | None = None
    """Reason of a skip or an error."""
    hint: str | None = None
    """How to fix the model."""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable evidence."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verdict(statuses: list[Status]) -> str:
    """fail > error > warn > pass; nothing ran is an error."""
    for worst in ("fail", "error", "warn", "pass"):
        if worst in statuses:
            return worst
    return "error"
