"""Rules of retraining: each fires on its side of the limit and stays silent without data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from torchstone._errors import UsageError
from torchstone.drift.triggers import (
    PRESETS,
    CompositeRule,
    DataVolumeRule,
    DriftRule,
    PerformanceRule,
    Situation,
    TimeRule,
    evaluate,
    preset,
)

NOW = datetime(2026, 1, 15, tzinfo=UTC)
CASES = [
    (DriftRule(0.15), Situation(drift={"js_divergence": 0.16}), True),
    (DriftRule(0.15), Situation(drift={"js_divergence": 0.15}), False),
    (DriftRule(metric_name="alarm"), Situation(drift={"alarm": True}), True),
    (DriftRule(metric_name="alarm"), Situation(drift={"alarm": False}), False),
    (PerformanceRule(0.05), Situation(metrics={"val_loss": 1.06}, baseline={"val_loss": 1.0}), True),
    (PerformanceRule(0.05), Situation(metrics={"val_loss": 0.5}, baseline={"val_loss": 1.0}), False),
    (PerformanceRule(0.05), Situation(metrics={"val_loss": -0.9}, baseline={"val_loss": -1.0}), True),
    (PerformanceRule(0.05), Situation(metrics={"val_loss": float("nan")}, baseline={"val_loss": 1.0}), True),
    (PerformanceRule(0.05), Situation(metrics={"val_loss": 0.1}, baseline={"val_loss": 0.0}), True),
    (
        PerformanceRule(0.05, "accuracy", "max"),
        Situation(metrics={"accuracy": 0.8}, baseline={"accuracy": 0.9}),
        True,
    ),
    (TimeRule(48), Situation(now=NOW, last_training=NOW - timedelta(hours=48)), True),
    (TimeRule(48), Situation(now=NOW, last_training=datetime(2026, 1, 14)), False),
    (DataVolumeRule(), Situation(rows=120, baseline_rows=100), True),
    (DataVolumeRule(), Situation(rows=119, baseline_rows=100), False),
    (DataVolumeRule(50, None), Situation(rows=150, baseline_rows=100), True),
    (DataVolumeRule(50, 0.9), Situation(rows=149, baseline_rows=100), False),
]


@pytest.mark.parametrize(("rule", "situation", "fires"), CASES)
def test_a_rule_fires_on_its_side_of_the_limit(rule, situation, fires: bool) -> None:
    found = rule.ask(situation)
    assert found.triggered is fires and found.reason
    silent = rule.ask(Situation(now=NOW))
    assert not silent.triggered and ("no" in silent.reason)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_asks_of_everything(name: str) -> None:
    worst = Situation(
        drift={"js_divergence": 0.8},
        metrics={"val_loss": 2.0},
        baseline={"val_loss": 1.0},
        now=NOW,
        last_training=NOW - timedelta(days=60),
        rows=1000,
        baseline_rows=100,
    )
    report = evaluate(preset(name), worst)
    assert report.triggered and all(each.triggered for each in report.trigger_details)
    assert report.severity == ("critical" if name == "conservative" else "warning")
    assert report.to_markdown().count("| yes |") == 4 and report.timestamp == NOW.isoformat()
    quiet = evaluate(preset(name), Situation(now=NOW))
    assert not quiet.triggered and quiet.severity == "info" and len(quiet.recommendations) == 1


def test_presets_go_from_mild_to_strict() -> None:
    limits = [[rule.ask(Situation()).threshold or 1 for rule in PRESETS[name][:2]] for name in PRESETS]
    assert limits == [[0.2, 0.1], [0.15, 0.05], [0.1, 0.03]]


def test_rules_combine_and_nest() -> None:
    drifted, worse = DriftRule(), PerformanceRule()
    situation = Situation(
        drift={"js_divergence": 0.5},
        metrics={"val_loss": 1.0},
        baseline={"val_loss": 1.0},
        rows=200,
        baseline_rows=100,
    )
    assert CompositeRule([drifted, worse], "OR").ask(situation).triggered
    assert not CompositeRule([drifted, worse], "AND").ask(situation).triggered
    nested = CompositeRule([CompositeRule([drifted, worse]), DataVolumeRule()], "AND", severity="critical")
    assert evaluate([nested], situation).severity == "critical"


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataVolumeRule(None, None),
        lambda: PerformanceRule(mode="up"),
        lambda: CompositeRule([]),
        lambda: CompositeRule([DriftRule()], "XOR"),
        lambda: preset("reckless"),
    ],
)
def test_rules_that_never_could_fire_are_refused(make) -> None:
    with pytest.raises(UsageError):
        make()
