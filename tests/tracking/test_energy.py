"""Laws of the meters, on counters in files; this machine may have none."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from torchstone.tracking.energy import Meter, read_meters, spent

counts = st.integers(0, 10**6).map(float)


@given(counts, counts)
def test_joules_survive_one_turn_of_the_counter(began: float, used: float) -> None:
    top = 10.0**6 + 1
    now = Meter("package-0", (began + used) % top, top)
    assert spent([Meter("package-0", began, top)], [now]) == {"package-0": used}


def test_a_meter_that_came_went_or_was_reset_tells_nothing() -> None:
    before = [Meter("gone", 1.0), Meter("reset", 5.0), Meter("kept", 2.0)]
    assert spent(before, [Meter("new", 9.0), Meter("reset", 1.0), Meter("kept", 3.5)]) == {"kept": 1.5}


def test_processor_packages_are_read_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    for name, label in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "package-1"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "name").write_text(label + "\n")
        (folder / "energy_uj").write_text("1500000\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # as where it may not be read
    assert read_meters(powercap=tmp_path) == [Meter("package-0", 1.5, 262143.32885)]
    assert read_meters(powercap=tmp_path / "absent") == []
