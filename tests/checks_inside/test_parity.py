"""parity: every way to compute a sound model agrees, and one that does not is named with its module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checks_inside.attending import Attending
from torch import nn

import torchstone as ts
from torchstone.checks.registry import CHECKS, checks_of
from torchstone.checks.run import CERTIFICATE, CheckJob, _certify, _context
from torchstone.checks.tier2.parity import parity
from torchstone.tracking.records import CheckResult


def judged(model: nn.Module, *only: str) -> CheckResult:
    context = _context(ts.adapt(model.eval()), None, None, 0, 60.0)
    checks_of((2,))
    context.current = CHECKS.get("parity")
    return parity(context, only)


def ways(found: CheckResult) -> dict[str, Any]:
    return {each["way"]: each for each in found.details["certificate"]["ways"]}


def test_a_sound_model_passes_in_every_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attending("sdpa")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = ts.check(model, only=["parity"])
    found = report["parity"]
    assert found.status == "pass", found.summary
    assert {name: each["status"] for name, each in ways(found).items()} == dict.fromkeys(
        ("inference", "sdpa-flash", "compile", "bfloat16"), "equal"
    )
    exact, rough = ways(found)["sdpa-flash"]["distances"], ways(found)["bfloat16"]["distances"]
    assert exact["gradients"] < 1e-5 and rough["gradients"] > 1e-4
    assert found.details["certificate"]["steps"] == 20
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    _the_certificate_lies_in_the_folder_of_a_run(report, tmp_path)
    assert model._compiled_call_impl is None and not any(each._forward_hooks for each in model.modules())


def _the_certificate_lies_in_the_folder_of_a_run(report: Any, folder: Path) -> None:
    _certify(report, CheckJob(target="zoo:gpt-nano"))  # no run: there is no place to keep it
    (folder / "checkpoints").mkdir()
    (folder / "config.json").write_text("{}")
    _certify(report, CheckJob(target=str(folder)))
    kept = json.loads((folder / CERTIFICATE).read_text())
    assert kept["schema"] == "torchstone.parity/1" and kept["verdict"] == "pass" and len(kept["ways"]) == 4


@pytest.mark.parametrize(
    ("way", "fault", "taken"),
    [
        ("softmax", "compiled", "compile"),
        ("softmax", "rounding", "bfloat16"),
        ("encoder-layer", "overridden", "inference"),
    ],
)
def test_a_fault_of_one_way_is_found_with_its_module(way: str, fault: str, taken: str) -> None:
    torch.manual_seed(0)
    found = judged(Attending(way, fault), taken)
    assert found.status == "fail", found.summary
    assert found.module in ("mixers.0", "mixers.1"), found.summary  # the fault is in both
    assert found.summary.startswith(taken)
    assert ways(found)[taken]["status"] == "differs"


def test_the_healthy_twin_of_an_overridden_layer_passes() -> None:
    torch.manual_seed(0)
    found = judged(Attending("encoder-layer"), "inference")
    assert found.status == "pass", found.summary


def test_a_random_model_is_a_skip_with_its_reason() -> None:
    found = judged(Attending("softmax", "random"), "bfloat16")
    assert found.status == "skip" and "two equal passes" in (found.why or "")


def test_distances_by_hand() -> None:
    """One gradient of two is off by a tenth; the other is rounding beside it and is held to the floor."""
    from torchstone.checks.course import Course, apart

    wanted = Course(
        torch.tensor([3.0, 4.0]), 2.0, {"a": torch.tensor([1.0]), "b": torch.tensor([1e-9])}, (2.0, 1.0)
    )
    found = Course(
        torch.tensor([3.0, 4.5]), 2.1, {"a": torch.tensor([1.1]), "b": torch.tensor([2e-9])}, (2.1, 1.3)
    )
    off = apart(found, wanted)
    assert off.answers == pytest.approx(0.1) and off.loss == pytest.approx(0.05)
    assert (off.gradients, off.parameter) == (pytest.approx(0.1, rel=1e-5), "a")
    assert off.trajectory == pytest.approx(0.15)
