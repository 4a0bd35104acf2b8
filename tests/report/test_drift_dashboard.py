"""The four drift panels: what they show is what was recorded, nothing overlaps, every format is written."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from zoo.documented import schema

from torchstone._errors import UsageError
from torchstone.cli.main import run
from torchstone.drift.monitor import Monitor
from torchstone.drift.tables import profile_table
from torchstone.report.dashboard import dashboard_figure, dashboard_html, write_dashboard_file
from torchstone.report.drift_info import drift_info, of_records
from torchstone.report.drift_panels import TITLES
from torchstone.report.run_info import run_info
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

LONG = "a feature with a name that never ends"


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Three windows, of which the last drifted in one feature."""
    rng = np.random.default_rng(0)

    def rows(shift: float, count: int = 200) -> dict[str, Any]:
        return {"length": rng.normal(shift, 1.0, count), LONG: rng.normal(size=count),
                "kind": rng.choice(["cat", "dog"], count)}  # fmt: skip

    monitor = Monitor(profile_table(rows(0.0, 400)), profile_table, window=200)
    for shift in (0.0, 0.0, 2.0):
        monitor.watch(rows(shift))
    return [dict(each.record) for each in monitor.windows]


@pytest.fixture
def store(tmp_path: Path, records: list[dict[str, Any]]) -> Any:
    with Store.open(tmp_path / "runs" / "store.db") as store:
        store.start_run("r1", name="notes", kind="train", run_dir="runs/r1")
        store.log_rows("r1", [MetricRow("train/loss", step, 2.0 / step) for step in range(1, 9)])
        for each in records:
            store.add_event("r1", "drift", each)
        yield store


def test_the_panels_tell_what_was_recorded(store: Store, records: list[dict[str, Any]]) -> None:
    info = drift_info(store, "r1")
    assert info is not None and info.status == "critical"
    assert info.course.alarm == [False, False, True]
    assert info.course.distance == [each["js_divergence"] for each in records]
    assert info.histogram is not None and info.histogram.feature == "length" == info.table[0].feature
    assert sum(info.histogram.new) == pytest.approx(1.0) and info.table[0].verdict == "drifted: location"
    place = info.matrix.features.index("length")
    assert info.matrix.alarm[place] == info.course.alarm
    assert "drift of length" in info.sentence and "false alarms 1.0%" in info.sentence
    store.start_run("r2", name="unwatched", kind="train", run_dir="runs/r2")
    assert drift_info(store, "r2") is None


def test_many_windows_and_features_are_cut_and_it_is_said(records: list[dict[str, Any]]) -> None:
    many = dict(records[-1], features=[dict(records[-1]["features"][0], feature=f"f{n}") for n in range(30)])
    info = of_records([many] * 200)
    assert (len(info.course.windows), info.course.windows[-1]) == (60, 200)
    assert (len(info.matrix.windows), len(info.matrix.features), len(info.table)) == (12, 8, 8)
    assert info.omitted == 22


def letters(figure: Any) -> list[tuple[str, Any]]:
    """Every word of the figure that is to be seen, with its place on it."""
    from matplotlib.text import Text

    figure.set_dpi(60)
    figure.draw_without_rendering()
    unseen = set()  # matplotlib keeps ticks beyond the ends of an axis, and does not draw them
    for axis in [each for axes in figure.axes for each in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        gone = [each for each in axis.get_major_ticks() if not low <= each.get_loc() <= high]
        unseen |= {id(label) for each in gone for label in (each.label1, each.label2)}
    texts = [each for each in figure.findobj(Text) if each.get_visible() and id(each) not in unseen]
    return [(each.get_text(), each.get_window_extent()) for each in texts if each.get_text().strip()]


def test_no_word_of_the_drift_panels_lies_on_another_or_beyond_the_edge(store: Store) -> None:
    figure = dashboard_figure(run_info(store, "r1"), drift=drift_info(store, "r1"))
    assert [each.get_title(loc="left") for each in figure.axes if each.get_title(loc="left") in TITLES] == [
        *TITLES
    ]
    assert len([each for each in figure.axes if each.get_title(loc="left")]) == 10
    words, edge = letters(figure), figure.bbox
    for word, box in words:
        assert edge.x0 <= box.x0 + 1 and box.x1 <= edge.x1 + 1, f"{word!r} leaves the picture"
    drift = [axes for axes in figure.axes if axes.get_title(loc="left") in TITLES]
    lowest = max(axes.get_window_extent().y1 for axes in drift)
    for (one, first), (other, second) in combinations([each for each in words if each[1].y1 < lowest], 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert wide < 1 or high < 1, f"{one!r} lies on {other!r}"
    sizes = {each.get_fontsize() for axes in drift for each in axes.texts}
    assert min(sizes) >= 11, "11 points at half size are what a footnote has"


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_every_format_is_written(store: Store, tmp_path: Path, ending: str, begins: bytes) -> None:
    assert write_dashboard_file(store, "r1", tmp_path / f"d.{ending}").read_bytes().startswith(begins)


def test_the_page_holds_the_numbers_for_who_sees_no_picture(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchstone.report import dashboard

    monkeypatch.setattr(dashboard, "inline_pictures", lambda draw, described: f"<p>{described}</p>")
    html = dashboard_html(run_info(store, "r1"), drift_info(store, "r1"))
    assert "drift of its data: window 3" in html and "drifted: location" in html and LONG in html


def test_the_command_draws_and_tells(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["runs", "dashboard", "r1", "--out", "d.svg", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, schema("torchstone.dashboard/1"))
    assert told["drift"] == "critical" and (tmp_path / told["path"]).is_file()
    with pytest.raises(UsageError, match="written as d"):
        write_dashboard_file(store, "r1", tmp_path / "d.gif")
