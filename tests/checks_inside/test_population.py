"""Tier 2 over the library's architectures, built tiny and at random: no crash, and a skip says why."""

from __future__ import annotations

import pytest
from zoo.library import LIBRARY, LibraryModel

import torchstone as ts

FEW = ("gpt2", "t5")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(each, id=each.name, marks=() if each.name in FEW else pytest.mark.campaign)
        for each in LIBRARY
    ],
)
def test_a_library_model_can_be_looked_into(model: LibraryModel) -> None:
    report = ts.check(model.build(), tiers=(2,), skip=["parity"])
    found = {each.id: (each.status, each.summary) for each in report.checks}
    print(f"\n| {model.name} | " + " | ".join(each.status for each in report.checks) + " |")
    assert not {name: told for name, told in found.items() if told[0] in ("error", "fail")}
    assert all(each.why for each in report.checks if each.status == "skip")


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("model", LIBRARY, ids=lambda each: each.name)
def test_every_way_of_computing_a_library_model_agrees(model: LibraryModel) -> None:
    """Parity holds, or the skip says why; a way that was not taken says so."""
    found = ts.check(model.build(), only=["parity"])["parity"]
    ways = found.details.get("certificate", {}).get("ways", [])
    print(
        f"\n| {model.name} | {found.status} | " + " | ".join(f"{e['way']} {e['status']}" for e in ways) + " |"
    )
    assert found.status in ("pass", "warn", "skip"), found.summary
    assert found.status != "skip" or found.why
    assert all(each["why"] for each in ways if each["status"] == "not run")
