"""What a study's report says, held against numbers worked out by hand and against scipy."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoo.documented import schema

from torchstone.study.cells import CellState
from torchstone.study.plan import Plan, plan_study
from torchstone.study.prove.full_size import FullSize
from torchstone.study.run import Outcome
from torchstone.study.study_file import read_study
from torchstone.study.summary import ArmSummary, Summary, summarise
from torchstone.study.summary_page import as_csv, header, html_page, markdown, report_info, rows, write_report
from torchstone.study.summary_picture import heat_map
from torchstone.tracking.job_table import Job

MATRIX = """
[study]
name = "axes"
describe = "width | rate"
kind = "matrix"
seeds = [1, 2, 3]
metric = "val/loss"
[[axis]]
name = "width"
key = "model.d_ff"
values = [64, 128]
[[axis]]
name = "rate"
key = "optim.learning_rate"
values = [0.1, 0.2]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    return plan_study(read_study(str(tmp_path / "matrix.toml")))


def outcome(plan: Plan, value: Callable[[str, int], float | None], status: str = "done") -> Outcome:
    """As if every cell had measured `value(arm, seed)`; None: it measured nothing."""
    states = []
    for cell in plan.cells:
        final = {"train/loss": 9.0, "val/loss": value(cell.arm, cell.seed)}
        job = Job(
            queue="q", job_id=cell.id, status=status, order={}, token=1, tries=1, owner=None,
            leased_until=None, not_before=0.0, seconds=5.0,
            result={"result": {"final": final, "seconds": 2.0 + cell.seed}},
        )  # fmt: skip
        states.append(CellState(cell=cell, run_dir=Path("x"), job=job))
    return Outcome(plan=plan, states=states, ending=None)


VALUES = {"64_0.1": 3.0, "64_0.2": 2.5, "128_0.1": 2.0, "128_0.2": 2.9}


def noisy(arm: str, seed: int) -> float:
    return VALUES[arm] + 0.1 * seed + (0.02 * (seed - 2) if arm == "64_0.2" else 0.0)


def test_mean_spread_and_paired_difference(plan: Plan) -> None:
    found = summarise(outcome(plan, noisy))
    first, second = found.arm("64_0.1"), found.arm("64_0.2")
    assert first.mean == pytest.approx(3.2) and first.spread == pytest.approx(0.1)
    assert first.difference is None, "nothing stands above it"
    gap = second.difference
    assert gap is not None and gap.num_seeds == 3 and gap.mean == pytest.approx(-0.5)
    stats = pytest.importorskip("scipy.stats", reason="pip install 'torchstone[stats]'")
    pairs = [noisy("64_0.2", seed) - noisy("64_0.1", seed) for seed in (1, 2, 3)]
    low, high = stats.t.interval(0.95, 2, loc=sum(pairs) / 3, scale=stats.sem(pairs))
    assert gap.interval == pytest.approx((low, high), rel=1e-3)
    assert found.best is not None and found.best.arm.id == "128_0.1"
    assert {value: best.arm.id for value, best in found.best_by_axis["rate"].items()} == {
        "0.1": "128_0.1",
        "0.2": "64_0.2",
    }
    assert first.costs["seconds"] == 4.0


def test_what_is_missing_is_told(plan: Plan) -> None:
    found = summarise(outcome(plan, lambda arm, seed: None if seed > 1 else VALUES[arm]))
    assert any("8 cells that are done did not measure val/loss" in each for each in found.notes)
    assert any("chance" in each for each in found.notes)
    gap = found.arm("64_0.2").difference
    assert gap is not None and gap.interval is None and found.arm("64_0.2").spread is None
    waiting = summarise(outcome(plan, noisy, status="waiting"))
    assert waiting.best is None and any("12 of 12 cells are not done" in each for each in waiting.notes)
    assert "val/loss" in html_page(waiting) and len(list(rows(waiting))) == 4


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=8), st.booleans())
def test_the_frontier_is_what_nothing_beats(points: list[tuple[int, int]], lower: bool) -> None:
    class Named:
        def __init__(self, id_: str) -> None:
            self.id, self.values = id_, {}

    class Study:
        metric, axes = ("val/loss" if lower else "val/accuracy"), ()

    arms = [
        ArmSummary(arm=Named(str(place)), values={1: float(quality)}, num_cells=1, costs={"seconds": cost})  # type: ignore[arg-type]
        for place, (quality, cost) in enumerate(points)
    ]
    kept = {each.arm.id for each in Summary(study=Study(), arms=arms).frontier("seconds")}  # type: ignore[arg-type]
    sign = 1 if lower else -1
    for place, (quality, cost) in enumerate(points):
        beaten = any(
            sign * q <= sign * quality and c <= cost and (q, c) != (quality, cost) for q, c in points
        )
        assert (str(place) in kept) != beaten


def sizes(plan: Plan) -> dict[str, FullSize]:
    return {
        arm.id: FullSize(
            config={},
            shapes={},
            parameters=1000 * (place + 1),
            flops=7,
            kv_bytes_per_token=2.5,
            weight_bytes=1,
        )
        for place, arm in enumerate(plan.arms)
    }


HALF = """\
[study]
name = "half"
kind = "matrix"
[[axis]]
name = "pruning"
values.none = { prune.method = "none" }
values.magnitude = { prune.method = "magnitude" }
[[axis]]
name = "sparsity"
key = "prune.sparsity"
values = [0.5, 0.9]
"""


def test_a_heat_map_leaves_out_what_has_no_other_axis(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'torchstone[plots]'")
    (tmp_path / "half.toml").write_text(HALF, encoding="utf-8")
    plan = plan_study(read_study(str(tmp_path / "half.toml")))
    drawn = heat_map(summarise(outcome(plan, lambda arm, seed: 1.0)), "pruning", "sparsity").axes[0]
    assert drawn.get_title("left") == "val/loss", "nothing is left out of the picture"
    assert [each.get_text() for each in drawn.get_yticklabels()] == ["magnitude"], "none has no sparsity"
    assert [each.get_text() for each in drawn.get_xticklabels()] == ["0.5", "0.9"]


def test_a_heat_map_names_the_axes_that_it_takes_the_best_of(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'torchstone[plots]'")
    third = '[[axis]]\nname = "decay"\nkey = "optim.weight_decay"\nvalues = [0.0, 0.1]\n'
    (tmp_path / "three.toml").write_text(MATRIX + third, encoding="utf-8")
    plan = plan_study(read_study(str(tmp_path / "three.toml")))
    drawn = heat_map(summarise(outcome(plan, lambda arm, seed: 1.0)), "width", "rate").axes[0]
    assert drawn.get_title("left") == "val/loss, the best over decay"


def test_every_form_says_the_same(plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'torchstone[plots]'")
    found = summarise(outcome(plan, noisy), sizes(plan))
    told: dict[str, Any] = report_info(found)
    jsonschema.validate(told | {"files": []}, schema("torchstone.study-report/1"))
    assert told["best"] == "128_0.1" and told["frontier"]["parameters"] == ["64_0.1", "64_0.2", "128_0.1"]
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(lines) == 12
    by_arm = {(each["arm"], each["seed"]): float(each["val/loss"]) for each in lines}
    assert all(by_arm[arm, str(seed)] == noisy(arm, seed) for arm in VALUES for seed in (1, 2, 3))
    table = markdown(found)
    assert "width \\| rate" in table and table.count("\n| 64_0.1 |") == 1
    files = write_report(found, tmp_path / "report")
    pictures = ["report-arms.png", "report-width-rate.png", "report-against-parameters.png"]
    assert [each.name for each in files] == ["report.html", "report.md", "report.csv", *pictures]
    assert all(f"]({each})" in files[1].read_text(encoding="utf-8") for each in pictures)
    assert all(each.read_bytes().startswith(b"\x89PNG") for each in files[3:])
    assert "in all arms: kv_bytes_per_token 2.5, flops 7" in table
    assert header(found)[-1] == "parameters", "what all arms share has no column"
    page = files[0].read_text(encoding="utf-8")
    assert page.count('role="img"') == 3, "ladder, heat map, quality against parameters; the others are equal"
    assert all(row[header(found).index("mean")] in page for row in rows(found))
    HTMLParser().feed(page)
