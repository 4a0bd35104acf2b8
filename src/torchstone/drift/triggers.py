"""When to train again: rules over drift, metrics, time and the amount of new data.

    rules = preset("balanced")
    now = Situation(drift={"js_divergence": 0.2}, metrics={"val_loss": 1.3}, baseline={"val_loss": 1.2})
    report = evaluate(rules, now)
    report.triggered, report.severity, report.recommendations

A rule whose data are missing does not fire and says what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from torchstone._errors import UsageError

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known when rules are asked."""

    drift: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the deployed model, now."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """Of the same model when it was accepted."""
    last_training: datetime | None = None
    now: datetime | None = None
    """Taken from the clock where absent."""
    rows: int | None = None
    """Rows that there are now."""
    baseline_rows: int | None = None
    """Rows that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class Firing:
    """What one rule said."""

    trigger_name: str
    triggered: bool
    severity: Severity
    reason: str
    threshold: float | None = None
    actual_value: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Rule(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def severity(self) -> Severity: ...

    def ask(self, situation: Situation) -> Firing: ...


def _firing(
    rule: Rule, triggered: bool, reason: str, value: float | None = None, threshold: float | None = None
) -> Firing:
    return Firing(
        trigger_name=rule.name,
        triggered=triggered,
        severity=rule.severity,
        reason=reason,
        threshold=threshold,
        actual_value=value,
        metrics={} if value is None else {rule.name: value},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


@dataclass(frozen=True)
class DriftRule:
    """Fires above a distance, or, with `metric_name="alarm"`, on a calibrated verdict that alarms."""

    threshold: float = 0.15
    metric_name: str = "js_divergence"
    severity: Severity = "warning"
    name: str = "drift"

    def ask(self, situation: Situation) -> Firing:
        value: Any = situation.drift.get(self.metric_name)
        if self.metric_name == "alarm" and isinstance(value, bool):
            said = "the verdict alarms" if value else "the verdict does not alarm"
            return _firing(self, value, said, float(value))
        if not _is_number(value):
            return _firing(self, False, f"no {self.metric_name} was measured", threshold=self.threshold)
        fired = value > self.threshold
        sign = ">" if fired else "<="
        reason = f"{self.metric_name} {value:.4g} {sign} {self.threshold:g}"
        return _firing(self, fired, reason, float(value), self.threshold)


@dataclass(frozen=True)
class PerformanceRule:
    """Fires when a metric is worse than the baseline by more than `threshold`, relative to the baseline."""

    threshold: float = 0.05
    metric_name: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    severity: Severity = "warning"
    name: str = "performance"

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise UsageError(f"mode {self.mode!r} is neither min nor max", next="min where lower is better")

    def ask(self, situation: Situation) -> Firing:
        now, before = situation.metrics.get(self.metric_name), situation.baseline.get(self.metric_name)
        if now is None or before is None:
            missing = "now" if now is None else "in the baseline"
            return _firing(
                self, False, f"{self.metric_name} is not known {missing}", threshold=self.threshold
            )
        if math.isnan(now):
            return _firing(self, True, f"{self.metric_name} is not a number", now, self.threshold)
        change = now - before if self.mode == "min" else before - now
        worse = change / abs(before) if before else math.inf if change > 0 else 0.0
        reason = f"{self.metric_name} went from {before:.4g} to {now:.4g}, {worse:+.1%} worse"
        return _firing(self, worse > self.threshold, reason, worse, self.threshold)


@dataclass(frozen=True)
class TimeRule:
    """Fires when the last training lies `interval_hours` back."""

    interval_hours: float = 168.0
    severity: Severity = "info"
    name: str = "time"

    def ask(self, situation: Situation) -> Firing:
        if situation.last_training is None:
            return _firing(
                self, False, "the time of the last training is not known", None, self.interval_hours
            )
        now = situation.now or datetime.now(UTC)
        hours = (_aware(now) - _aware(situation.last_training)).total_seconds() / 3600
        return _firing(
            self,
            hours >= self.interval_hours,
            f"{hours:.1f} h since the last training",
            hours,
            self.interval_hours,
        )


@dataclass(frozen=True)
class DataVolumeRule:
    """Fires on so many new rows, or on such a share of the rows trained on; whichever comes first."""

    threshold_samples: int | None = None
    threshold_percentage: float | None = 0.2
    severity: Severity = "info"
    name: str = "data-volume"

    def __post_init__(self) -> None:
        if self.threshold_samples is None and self.threshold_percentage is None:
            raise UsageError(
                "a data-volume rule without a limit never fires",
                next="give threshold_samples or threshold_percentage",
            )

    def ask(self, situation: Situation) -> Firing:
        if situation.rows is None or situation.baseline_rows is None:
            return _firing(self, False, "the numbers of rows, now and at the training, are not known")
        new = situation.rows - situation.baseline_rows
        share = new / situation.baseline_rows if situation.baseline_rows else math.inf if new > 0 else 0.0
        enough = self.threshold_samples is not None and new >= self.threshold_samples
        large = self.threshold_percentage is not None and share >= self.threshold_percentage
        reason = f"{new:,} new rows, {share:+.1%} of those trained on"
        if self.threshold_percentage is not None:
            return _firing(self, enough or large, reason, share, self.threshold_percentage)
        return _firing(self, enough, reason, float(new), self.threshold_samples)


@dataclass(frozen=True)
class CompositeRule:
    """Fires if any (OR) or all (AND) of its rules do."""

    rules: Sequence[Rule]
    logic: Literal["AND", "OR"] = "OR"
    severity: Severity = "warning"
    name: str = "composite"

    def __post_init__(self) -> None:
        if not self.rules or self.logic not in ("AND", "OR"):
            raise UsageError("a composite rule needs rules and AND or OR", next='CompositeRule([...], "AND")')

    def ask(self, situation: Situation) -> Firing:
        firings = [rule.ask(situation) for rule in self.rules]
        fired = [each for each in firings if each.triggered]
        triggered = bool(fired) if self.logic == "OR" else len(fired) == len(firings)
        reason = f"{len(fired)} of {len(firings)} fired ({self.logic}): " + "; ".join(
            f"{each.trigger_name}: {each.reason}" for each in firings
        )
        return _firing(self, triggered, reason, float(len(fired)))


@dataclass(frozen=True, kw_only=True)
class RetrainingReport:
    triggered: bool
    severity: Severity
    """The gravest of the rules that fired; info if none did."""
    trigger_details: tuple[Firing, ...]
    recommendations: tuple[str, ...]
    timestamp: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> str:
        lines = [
            f"# Train again: {'yes' if self.triggered else 'no'} ({self.severity})",
            "",
            f"{self.timestamp}",
            "",
            "| rule | fired | severity | why |",
            "|---|---|---|---|",
            *(_row(each) for each in self.trigger_details),
            "",
            *(f"- {each}" for each in self.recommendations),
        ]
        return "\n".join(lines) + "\n"


def _row(firing: Firing) -> str:
    cells = (firing.trigger_name, "yes" if firing.triggered else "no", firing.severity, firing.reason)
    return f"| {' | '.join(cells)} |"


def evaluate(rules: Sequence[Rule], situation: Situation) -> RetrainingReport:
    """Ask every rule."""
    details = tuple(rule.ask(situation) for rule in rules)
    fired = [each for each in details if each.triggered]
    gravest = max((SEVERITIES.index(each.severity) for each in fired), default=0)
    return RetrainingReport(
        triggered=bool(fired),
        severity=SEVERITIES[gravest],
        trigger_details=details,
        recommendations=_recommend(fired),
        timestamp=_aware(situation.now or datetime.now(UTC)).isoformat(),
    )


def _recommend(fired: Sequence[Firing]) -> tuple[str, ...]:
    if not fired:
        return ("go on; nothing asks for a new training",)
    told = tuple(f"{each.trigger_name}: {each.reason}" for each in fired)
    if any(each.severity == "critical" for each in fired):
        return ("train again now, and compare with the deployed model before it is replaced", *told)
    return ("plan a new training", *told)


def _aware(moment: datetime) -> datetime:
    """A time without a zone is taken as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


PRESETS: dict[str, tuple[Rule, ...]] = {
    "conservative": (
        DriftRule(0.2, severity="critical"),
        PerformanceRule(0.1, severity="critical"),
        TimeRule(336),
        DataVolumeRule(threshold_percentage=0.3),
    ),
    "balanced": (
        DriftRule(0.15),
        PerformanceRule(0.05),
        TimeRule(168),
        DataVolumeRule(threshold_percentage=0.2),
    ),
    "aggressive": (
        DriftRule(0.1),
        PerformanceRule(0.03),
        TimeRule(48),
        DataVolumeRule(threshold_percentage=0.1),
    ),
}
"""The familiar presets: limits of distance, loss of performance, hours and new data."""


def preset(name: str) -> tuple[Rule, ...]:
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", next=f"choose one of: {', '.join(PRESETS)}")
    return PRESETS[name]
