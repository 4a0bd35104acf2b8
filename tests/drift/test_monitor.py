"""Watching a deployed model: windows, declared false alarms, alerts, and calls for a new training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from torchstone._errors import DataError, UsageError
from torchstone.drift.alerts import AlertConfig, Alerts, TrainingAlerts
from torchstone.drift.monitor import Monitor
from torchstone.drift.profile import Profile
from torchstone.drift.tables import profile_table
from torchstone.drift.texts import profile_texts
from torchstone.drift.triggers import preset


def texts(rng: np.random.Generator, rows: int, longer: float = 1.0) -> list[np.ndarray]:
    lengths = np.maximum(1, rng.gamma(4.0, 6.0 * longer, rows)).astype(int)
    return [rng.integers(0, 200, length) for length in lengths]


def monitor_of(rng: np.random.Generator, **more: Any) -> Monitor:
    reference = profile_texts(texts(rng, 1000), outputs=rng.integers(0, 3, 1000))
    return Monitor(reference, profile_texts, window=200, **more)


def test_a_drift_alarms_alerts_and_asks_for_a_training(caplog: pytest.LogCaptureFixture) -> None:
    rng, heard, asked = np.random.default_rng(0), [], []

    def deaf(*_: object) -> None:
        raise OSError("the mail server is down")

    alerts = Alerts([deaf, lambda kind, message, metrics: heard.append((kind, message, metrics))])
    monitor = monitor_of(rng, alerts=alerts, rules=preset("balanced"), on_retraining=[deaf, asked.append])
    for _ in range(4):
        monitor.watch(texts(rng, 100), outputs=rng.integers(0, 3, 100))
    assert [each.status for each in monitor.windows] == ["healthy"] * 2 and not heard and not asked
    for _ in range(2):
        window = monitor.watch(texts(rng, 100, longer=2.0), outputs=rng.integers(0, 3, 100))
    assert window is not None and window.verdict.alarm and window.status == "critical"
    assert window.record["affected_features"] == ["length"] and window.record["js_divergence"] > 0.2
    ((kind, message, metrics),) = heard
    assert (kind, metrics["window"]) == ("drift_critical", 3) and "length drifted" in message
    (report,) = asked
    assert report.triggered and "drift" in report.recommendations[1]
    assert len(caplog.records) == 2, "both deaf listeners are in the log, and nothing else happened"
    assert [each["type"] for each in alerts.get_alerts()] == ["drift_critical"] and not alerts.has_alerts()


def test_a_new_class_among_the_answers_is_drift() -> None:
    rng = np.random.default_rng(1)
    monitor = monitor_of(rng)
    answers = np.where(rng.random(200) < 0.1, 7, rng.integers(0, 3, 200))
    window = monitor.watch(texts(rng, 200), outputs=answers)
    assert window is not None and window.record["affected_features"] == ["output"]
    shown = window.record["histogram"]
    assert (
        shown["feature"] == "output"
        and shown["classes"] == ["0", "1", "2", "7"]
        and shown["reference"][3] == 0
    )
    assert sum(shown["new"]) == pytest.approx(1.0)


def test_false_alarms_come_as_often_as_was_said() -> None:
    """At a rate of 10 % so that few windows tell: 240 of them, four for each reference."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(60):
        columns = lambda rows: {"a": rng.normal(size=rows), "b": rng.choice(["x", "y"], rows)}  # noqa: E731
        monitor = Monitor(profile_table(columns(200)), profile_table, window=50, false_alarm_rate=0.1)
        for _ in range(4):
            monitor.watch(columns(50))
        alarms += sum(each.verdict.alarm for each in monitor.windows)
    assert 0.05 < alarms / 240 < 0.16


def test_how_requests_are_batched_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    reference = profile_table({"a": rng.normal(size=300)})
    column = rng.normal(0.3, size=120)
    found = []
    for size in (1, 7, 120):
        monitor = Monitor(reference, partial(profile_table), window=120)
        for start in range(0, 120, size):
            monitor.watch({"a": column[start : start + size]})
        monitor.close_window()
        found.append(monitor.windows[0].verdict)
    assert len({each.rows for each in found}) == 1
    assert len({each.alarm for each in found}) == 1
    assert np.ptp([each.features[0].distance for each in found]) < 1e-12


def test_what_is_not_alike_is_refused_and_few_rows_are_not_judged() -> None:
    rng = np.random.default_rng(4)
    monitor = monitor_of(rng)
    assert monitor.watch(texts(rng, 5), outputs=[0] * 5) is None and monitor.close_window() is None
    with pytest.raises(DataError):
        monitor.watch(texts(rng, 5))
    for wrong in ({"window": 3}, {"false_alarm_rate": 0.0}):
        with pytest.raises(UsageError):
            Monitor(monitor.reference, profile_texts, **wrong)


def test_rules_hear_of_metrics_time_and_rows() -> None:
    rng = np.random.default_rng(5)
    reference: Profile = profile_table({"a": rng.normal(size=200)})
    monitor = Monitor(reference, profile_table, window=100, rules=preset("balanced"))
    monitor.knows(
        metrics={"val_loss": 1.2}, baseline={"val_loss": 1.0}, baseline_rows=200,
        last_training=datetime.now(UTC) - timedelta(hours=200),
    )  # fmt: skip
    window = monitor.watch({"a": rng.normal(size=100)})
    assert window is not None
    fired = {each.trigger_name for each in window.retraining.trigger_details if each.triggered}
    assert fired == {"performance", "time", "data-volume"}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([{"val/loss": 1.0}, {"val/loss": 1.19}], []),
        ([{"val/loss": 1.0}, {"val/loss": 1.21}], ["val_loss_spike"]),
        ([{"val/loss": 1.0}, {"val/loss": float("nan")}], ["val_loss_spike"]),
        ([{"val/loss": -1.0}, {"val/loss": -0.7}], ["val_loss_spike"]),
        ([{"val/accuracy": 0.9}, {"val/accuracy": 0.86}], []),
        ([{"val/accuracy": 0.9}, {"val/accuracy": 0.84}], ["accuracy_drop"]),
    ],
)
def test_a_training_alerts_on_its_side_of_the_limit(metrics: list[dict], expected: list[str]) -> None:
    alerts = Alerts()
    hook = TrainingAlerts(alerts)
    for step, each in enumerate(metrics):
        hook.on_eval(SimpleNamespace(step=step, metrics=each))
    assert [each["type"] for each in alerts.get_alerts()] == expected


def test_exploding_gradients_alert_once_each_time() -> None:
    alerts = Alerts()
    hook = TrainingAlerts(alerts, AlertConfig(gradient_explosion_threshold=5.0))
    for step, norm in enumerate((4.0, 6.0, 7.0, 4.0, float("nan"), 4.0)):
        hook.on_step(SimpleNamespace(step=step, grad_norm=norm))
    assert [each["metrics"]["step"] for each in alerts.get_alerts()] == [1, 4]
    with pytest.raises(UsageError):
        AlertConfig(accuracy_drop_threshold=-1.0)
