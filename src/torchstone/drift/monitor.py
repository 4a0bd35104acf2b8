"""Watch a deployed model: what goes in and comes out is profiled, and judged window after window.

    reference = profile_texts(training_rows, outputs=labels)
    monitor = Monitor(reference, profile_texts, window=1000, alerts=Alerts([tell]), rules=preset("balanced"))
    monitor.watch(rows_of_ids, outputs=predicted_classes)       # as requests come; cheap
    monitor.windows[-1].verdict.alarm

Each full window is compared with the reference, with the declared rate of false alarms: over 100 windows of
data that did not drift, one false alarm is to be expected at the default. Alerts and rules of retraining
follow the verdict. Nothing that a callback does reaches the model that is being watched.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torchstone._errors import UsageError, in_one_line
from torchstone.drift.alerts import DRIFT_CRITICAL, Alerts
from torchstone.drift.drift_record import drift_record, status_of
from torchstone.drift.profile import Profile
from torchstone.drift.triggers import DriftRule, RetrainingReport, Rule, Situation, evaluate
from torchstone.drift.verdict import FEWEST_ROWS, DriftVerdict, compare

log = logging.getLogger(__name__)

FALSE_ALARM_RATE = 0.01
DRIFT_WARNING = "drift_warning"
Listener = Callable[[RetrainingReport], object]


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of what the model was asked and answered."""

    number: int
    """From 1."""
    at: str
    """When it was full: ISO 8601, UTC."""
    verdict: DriftVerdict
    record: Mapping[str, Any]
    """As `drift_record` tells it: for the store and the dashboard."""
    retraining: RetrainingReport

    @property
    def status(self) -> str:
        """healthy, warning or critical."""
        return status_of(self.verdict)


class Monitor:
    """What a deployed model is given and answers, against what it was accepted with.

    profile: one of the `profile_*` functions, or a partial of it; it made the reference too.
    window: rows; a batch is never split, so a window may hold some more.
    rules: of retraining. Rules on a distance follow the calibrated verdict instead, unless `by_distance`.
    on_retraining: told the report of every window after which a rule fired.
    """

    def __init__(
        self,
        reference: Profile,
        profile: Callable[..., Profile],
        *,
        window: int = 1000,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        alerts: Alerts | None = None,
        rules: Sequence[Rule] = (DriftRule(metric_name="alarm"),),
        by_distance: bool = False,
        on_retraining: Sequence[Listener] = (),
        seed: int = 0,
    ) -> None:
        if window < FEWEST_ROWS or not 0 < false_alarm_rate < 0.5:
            raise UsageError(
                f"a window of {window} rows with a false-alarm rate of {false_alarm_rate}",
                next=f"at least {FEWEST_ROWS} rows, and a rate such as {FALSE_ALARM_RATE}",
            )
        self.reference, self.window, self.false_alarm_rate = reference, window, false_alarm_rate
        self.alerts = alerts or Alerts()
        self.rules = tuple(rules) if by_distance else calibrated(rules)
        self.on_retraining = list(on_retraining)
        self.windows: list[Window] = []
        self.rows_seen = 0
        self._profile, self._seed = profile, seed
        self._current: Profile | None = None
        self._situation = Situation()

    def knows(self, **facts: Any) -> None:
        """What rules may ask beside drift: `metrics`, `baseline`, `last_training`, `baseline_rows`."""
        self._situation = dataclasses.replace(self._situation, **facts)

    def watch(self, rows: Sequence[Any] | Mapping[str, Any], **more: Any) -> Window | None:
        """Take what was asked, and with `outputs=` what was answered; the window that this filled, if any."""
        part = self._profile(rows, keep=self.reference.keep, seed=self._seed, start=self.rows_seen, **more)
        return self.watch_profile(part)

    def watch_profile(self, part: Profile) -> Window | None:
        """The same for rows that were profiled elsewhere, with `start=` at their place in the stream."""
        self._current = part if self._current is None else self._current.merge(part)
        self.rows_seen += part.rows_seen
        return self.close_window() if self._current.rows_seen >= self.window else None

    def close_window(self) -> Window | None:
        """Judge what there is, though the window is not full; None where it holds too few rows to judge."""
        current = self._current
        if current is None or current.rows_kept < FEWEST_ROWS:
            return None
        self._current = None
        # Another seed for each window: the same deal again and again would repeat its error.
        number = len(self.windows) + 1
        verdict = compare(
            self.reference, current, false_alarm_rate=self.false_alarm_rate, seed=self._seed + number
        )
        window = Window(
            number=number,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict=verdict,
            record=drift_record(verdict, self.reference, current),
            retraining=evaluate(self.rules, self._situated(verdict)),
        )
        self.windows.append(window)
        self._tell(window)
        return window

    def _situated(self, verdict: DriftVerdict) -> Situation:
        drift = {"js_divergence": verdict.max_distance, "alarm": verdict.alarm}
        known = self._situation
        rows = None if known.baseline_rows is None else known.baseline_rows + self.rows_seen
        return dataclasses.replace(known, drift=drift, rows=rows)

    def _tell(self, window: Window) -> None:
        if window.verdict.alarm:
            drifted = ", ".join(window.record["affected_features"])
            message = f"window {window.number}: {drifted} drifted (p {window.verdict.p_value:.2g})"
            kind = DRIFT_CRITICAL if window.status == "critical" else DRIFT_WARNING
            self.alerts.trigger_alert(kind, message, {"window": window.number, **window.record["details"]})
        if window.retraining.triggered:
            for each in self.on_retraining:
                try:
                    each(window.retraining)
                except Exception as error:
                    log.warning("retraining was not asked for: %s", in_one_line(error))


def calibrated(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules, with the verdict's alarm in place of distances, whose rate of false alarms nobody knows."""
    return tuple(
        dataclasses.replace(each, metric_name="alarm") if isinstance(each, DriftRule) else each
        for each in rules
    )
