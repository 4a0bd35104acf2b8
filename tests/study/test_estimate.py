"""Laws of the estimate: sizes are the model's own, time comes from runs that are alike or is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.study_texts import ABLATION, write

from torchstone.study.estimate import estimate
from torchstone.study.plan import Plan, plan_study
from torchstone.study.study_file import read_study
from torchstone.tracking.environment import cpu_model
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

SIZES = """\
[study.set]
model = { vocab_size = 64, d_model = 16, num_layers = 1, num_heads = 2, max_seq_len = 32 }
"""


def planned(folder: Path) -> Plan:
    return plan_study(read_study(write(folder, ABLATION.replace("[[step]]", SIZES + "[[step]]", 1))))


def keep_run(store: Store, run_id: str, plan: Plan, arm: str, tokens_per_s: float, device: str) -> None:
    """A finished run of an arm on a device."""
    settings = plan.arm(arm).settings
    store.start_run(run_id, name=run_id, kind="train", run_dir="", config=settings.to_json())
    store.log_rows(run_id, [MetricRow("train/tokens_per_s", step, tokens_per_s) for step in (1, 2, 3)])
    store.add_event(run_id, "facts", {"hardware": {"name": device}})
    store.finish_run(run_id, "completed")


def test_sizes_without_any_run(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    zero, one = estimate(plan).arms
    assert zero.tokens == 60 * 8 * 32
    assert zero.cells == 2
    assert one.parameters == zero.parameters, "its MLP of 64 is four times the width, as it was"
    # Weights and gradients, and two moments of Adam, in four bytes each.
    assert abs(zero.memory_bytes - 16 * zero.parameters) < 0.05 * zero.memory_bytes
    assert zero.flops is not None
    assert zero.seconds is None
    assert "store" in zero.basis


def test_time_comes_from_runs_that_are_alike(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    with Store.open(tmp_path / "store.db") as store:
        for number, speed in enumerate((100.0, 200.0, 300.0)):
            keep_run(store, f"alike-{number}", plan, "0", speed, cpu_model())
        keep_run(store, "elsewhere", plan, "0", 9000.0, "another device")
        found = estimate(plan, store)
    zero, one = found.arms
    assert zero.seconds == 60 * 8 * 32 / 200.0
    assert "median of 3 runs" in zero.basis
    assert one.seconds is not None and one.flops is not None and zero.flops is not None
    assert one.seconds == pytest.approx(zero.seconds * one.flops / zero.flops), "another model, by its FLOPs"
    assert "GFLOP/s, as of 0" in one.basis
    assert zero.energy_joules is None and found.energy_joules is None, "nobody had a meter"


def test_energy_comes_from_sessions_that_had_a_meter(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    with Store.open(tmp_path / "store.db") as store:
        keep_run(store, "alike", plan, "0", 100.0, cpu_model())
        for joules, tokens in ((10.0, 100), (50.0, 500), (3.0, 0)):
            store.add_event(
                "alike", "energy", {"joules": {"package-0": joules, "GPU-1": joules}, "tokens": tokens}
            )
        zero, one = estimate(plan, store).arms
    assert zero.energy_joules == pytest.approx(60 * 8 * 32 * 0.2)
    assert one.energy_joules is None


IMAGES = """\
[study]
name = "images"
kind = "matrix"
[study.set]
model.target = "zoo:lenet5"
data.source = "builtin:digits"
train.batch_size = 8
train.max_steps = 30
[[axis]]
name = "optimizer"
key = "optim.name"
values = ["adamw"]
"""


def test_images_are_counted_as_images(tmp_path: Path) -> None:
    plan = plan_study(read_study(write(tmp_path, IMAGES)))
    with Store.open(tmp_path / "store.db") as store:
        keep_run(store, "alike", plan, "adamw", 20.0, cpu_model())
        (found,) = estimate(plan, store).arms
    assert (found.tokens, found.unit) == (8 * 30, "images")
    assert found.seconds == 8 * 30 / 20.0
    assert "20 images/s" in found.basis
