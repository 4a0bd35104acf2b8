"""What a run's reports say: figures from the store, panels that name what is missing, and safe pages."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.pages import Reader, drawn, fetches
from report.reports import HOSTILE, ORDINARY, a_run

from torchstone._errors import UsageError
from torchstone.report import figure_file
from torchstone.report.compare import best_run, compare
from torchstone.report.dashboard import dashboard_figure, dashboard_html, write_dashboard
from torchstone.report.dashboard_info import panels, shrink
from torchstone.report.inert import inert
from torchstone.report.numbers import duration, number
from torchstone.report.palette import DARK, LIGHT
from torchstone.report.run_info import direction, live_status, perplexity, run_info
from torchstone.report.run_table import comparison_table, run_card, runs_table
from torchstone.report.terminal import sparkline
from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store.db") as store:
        yield store


def six(store: Store, run_id: str) -> dict:
    drawn = panels(run_info(store, run_id))
    assert [panel.title for panel in drawn] == [
        "Loss",
        "Perplexity",
        "Accuracy",
        "Learning rate",
        "Gradient norm",
        "Throughput",
    ]
    return {panel.title: panel for panel in drawn}


def test_the_info_of_a_run_is_what_was_logged(store):
    info = run_info(store, a_run(store))
    assert (info.steps, info.status) == (40, "completed")
    assert info.best == type(info.best)("val/loss", 40, 2.1 + 3 * math.exp(-4))
    assert info.last["train/learning_rate"] == 3e-4
    facts = dict(info.summary())
    assert facts["learning rate"] == "3.00e-04"
    assert facts["best val/loss"] == "2.155 at step 40"
    assert facts["perplexity"] == number(math.exp(info.last["val/loss"]))
    json.dumps(info.to_dict())


def test_a_run_without_rows_still_has_a_report(store, tmp_path):
    store.start_run("empty", name="n", kind="train", run_dir="x")
    assert all(panel.absent for panel in six(store, "empty").values())
    assert len(write_dashboard(store, "empty", tmp_path)) == 2


def test_each_panel_draws_its_metric_or_names_what_is_missing(store):
    found = six(store, a_run(store))
    assert [curve.label for curve in found["Loss"].curves] == ["train", "val"]
    assert found["Loss"].star[:2] == (40, 2.1 + 3 * math.exp(-4))
    assert found["Perplexity"].curves[0].values[-1] == math.exp(found["Loss"].curves[1].values[-1])
    assert found["Accuracy"].absent == "not logged: val/accuracy"
    assert found["Learning rate"].span == (1, 4, "warm-up")
    assert found["Throughput"].level[1] == "mean 1,001"
    assert found["Gradient norm"].warn_above is None


def test_scales_and_zones_follow_the_values(store):
    run_id = a_run(
        store,
        **{
            "train/loss": lambda step: 100.0 / step,
            "val/loss": None,
            "train/grad_norm": lambda step: 9.0 if step == 3 else 1.0,
            "val/accuracy": lambda step: step / 40,
            "train/learning_rate": lambda step: 1e-3 * min(step / 5, 10 ** -(step / 10)),
        },
    )
    found = six(store, run_id)
    assert (found["Loss"].log, found["Learning rate"].log) == (True, True)
    assert found["Perplexity"].curves[0].label == "train"
    assert (found["Accuracy"].limits, found["Accuracy"].curves[0].values[-1]) == ((0.0, 100.0), 100.0)
    assert found["Gradient norm"].warn_above == 5.0
    assert not six(store, a_run(store, "other"))["Loss"].log
    # A warm-up from near zero alone is no reason for a logarithmic scale.
    assert not six(store, "other")["Learning rate"].log


def test_values_that_are_not_finite_are_counted_and_never_best(store):
    run_id = a_run(
        store, **{"train/loss": lambda step: (math.nan, math.inf, 3.0)[step % 3], "val/loss": None}
    )
    panel = six(store, run_id)["Loss"]
    assert panel.omitted == 27
    assert panel.star[1] == 3.0
    all_bad = a_run(store, "bad", **{"train/loss": lambda step: math.nan, "val/loss": None})
    assert six(store, all_bad)["Loss"].absent == "no value can be drawn: train/loss"


def test_a_long_curve_is_thinned_but_keeps_its_extremes(store):
    points = [(step, float(step * 7919 % 1009)) for step in range(20_000)]
    points[777] = (777, -5.0)
    points[12_345] = (12_345, 5000.0)
    kept = shrink(points, 1500)
    assert len(kept) <= 1500
    assert kept == sorted(set(kept))
    assert {points[0], points[-1], points[777], points[12_345]} <= set(kept)
    assert shrink(points[:1500], 1500) == points[:1500]


def test_a_noisy_curve_gets_a_mean_that_does_not_lag(store):
    run_id = a_run(store, steps=1000, **{"train/loss": lambda step: 1000.0 - step})
    faint, mean = six(store, run_id)["Loss"].curves[:2]
    assert (faint.faint, mean.label) == (True, "train, running mean")
    assert all(abs(value - (1000 - step)) < 1e-6 for step, value in zip(mean.steps, mean.values, strict=True))


EXTREMES = [
    [1.7976931348623157e308, -1e308, 0.0],
    [5e-324, 1e-300, 1.0, math.nan],
    [-3.0, 0.0, math.inf],
    [1e29, 1e-29],
    [2.5],
    [],
]


@pytest.mark.parametrize("values", EXTREMES, ids=str)
def test_no_values_whatever_stop_the_report(store, values):
    def curve(step: int) -> float | None:
        return values[step - 1] if step <= len(values) else None

    keys = ("train/loss", "val/loss", "train/grad_norm", "train/learning_rate", "train/tokens_per_s")
    info = run_info(store, a_run(store, **dict.fromkeys(keys, curve)))
    dashboard_figure(info).savefig(io.BytesIO(), dpi=20)
    drawn(run_card(info))


@settings(deadline=None)
@given(st.lists(st.floats(), max_size=70), st.integers(1, 40))
def test_a_sparkline_has_a_sign_per_point_and_never_fails(values, width):
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(" ▁▂▃▄▅▆▇█")


def test_the_picture_is_whole_and_large(store, tmp_path):
    page, picture = write_dashboard(store, a_run(store), tmp_path)
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1600, 1000)
    assert page.name == "dashboard.html"
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []


def test_the_page_needs_no_network_and_a_name_stays_text(store):
    info = run_info(store, a_run(store, name=HOSTILE, **{HOSTILE: lambda step: 1.0}))
    html = dashboard_html(info)
    assert fetches(html) == []
    page, ordinary = Reader(html), Reader(dashboard_html(run_info(store, a_run(store, "plain"))))
    assert page.tags.keys() == ordinary.tags.keys()
    assert page.tags["script"] == page.tags["img"] == 0
    assert page.text.count(inert(HOSTILE)) == 3  # title, heading, table
    assert "val/loss" in page.text
    names = [value for name, value in page.attributes if name == "id"]
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', html))
    assert len(names) == len(set(names)) > len(used)
    assert used - set(names) == set()
    assert (page.tags["svg"], html.count('class="dark"')) == (2, 1)


def test_the_dark_picture_is_the_light_one_in_other_colours(store):
    info = run_info(store, a_run(store))
    light, dark = (figure_file._svg(dashboard_figure(info, theme), theme) for theme in (LIGHT, DARK))
    assert unnamed(figure_file._darkened(light)) == unnamed(dark)
    assert figure_file._darkened(light.replace(LIGHT.ink, "#123456")) is None, "a colour of no theme"


def unnamed(drawing):
    """Names follow from colours too: numbered as they come."""
    names = {name: str(place) for place, name in enumerate(re.findall(r' id="(\w+)"', drawing))}
    return re.sub(r'(?<= id=")\w+|(?<=#)\w+(?=["\)])', lambda found: names.get(found[0], found[0]), drawing)


def test_without_matplotlib_the_page_has_the_numbers_and_the_pip_line(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (path,) = write_dashboard(store, a_run(store), tmp_path)
    assert "pip install &#x27;torchstone[plots]&#x27;" in path.read_text(encoding="utf-8")
    assert "2.155" in path.read_text(encoding="utf-8")


def test_a_killed_run_is_told_from_a_running_one(store, tmp_path):
    folder = RunFolder.create(root=tmp_path)
    store.start_run(folder.run_id, name="n", kind="train", run_dir=folder.path)
    run = store.run(folder.run_id)
    with folder.locked():
        assert live_status(run) == "running"
    assert live_status(run) == "killed"
    store.finish_run(folder.run_id, "completed")
    assert live_status(store.run(folder.run_id)) == "completed"


def test_a_comparison_shows_what_differs_and_marks_the_best(store):
    a = a_run(store, "a", **{"val/accuracy": lambda step: 0.5})
    b = a_run(store, "b", **{"val/accuracy": lambda step: 0.75, "train/loss": lambda step: math.nan})
    store.start_run("b", name="n", kind="train", run_dir="x", config={"optim": {"learning_rate": 1e-3}})
    found = compare(store, [a, b])
    assert found.differences == {"optim.learning_rate": [3e-4, 1e-3], "train.random_seed": [1, None]}
    assert found.best("val/accuracy") == 1
    assert found.best("train/loss") is None
    assert found.best("val/loss") is None  # equal
    text = drawn(comparison_table(found), width=100)
    assert re.search(r"val/accuracy\s+0.5\s+0.75 \*", text)
    json.dumps(found.to_dict())


def test_the_best_run_counts_every_step_and_knows_the_direction(store):
    a_run(
        store, "a", **{"val/loss": lambda step: 1.0 if step == 7 else 5.0, "val/accuracy": lambda step: 0.1}
    )
    a_run(store, "b", **{"val/loss": lambda step: 2.0, "val/accuracy": lambda step: 0.2})
    assert (best_run(store, "val/loss")["run_id"], best_run(store, "val/loss")["step"]) == ("a", 7)
    assert best_run(store, "val/accuracy")["run_id"] == "b"
    assert best_run(store, "val/accuracy", "min")["run_id"] == "a"
    with pytest.raises(UsageError, match="no run has a finite value"):
        best_run(store, "val/los")


def test_directions():
    assert [direction(key) for key in ("val/loss", "val/accuracy", "train/tokens_per_s")] == [
        "min",
        "max",
        "max",
    ]


def test_tables_show_runs_with_names_that_cannot_steer_the_terminal(store):
    a_run(store, "evil\x1b[2J")
    text = drawn(runs_table(store.runs(), store.last_values(["evil\x1b[2J"])), width=140, force_terminal=True)
    assert "\x1b[2J" not in text
    assert re.search(r"evil\\x1b\[2J\s+\S*train", text)
    card = drawn(run_card(run_info(store, "evil\x1b[2J")), width=100)
    assert "train/loss" in card
    assert "█" in card


def test_sparklines():
    assert sparkline([0, 1, 2, 3]) == "▁▃▆█"
    assert sparkline([1.0, math.nan, 1.0]) == "▄ ▄"
    assert sparkline([-1.7e308, 1.7e308]) == "▁█"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)), 30)) == 30
    assert sparkline([math.inf] * 3) == "   "


def test_numbers_and_durations():
    shown = [
        number(value)
        for value in (0.0, 1, 0.0123456, 1.5e-7, 123456, 12345.6, 2.0e9, math.nan, -math.inf, None)
    ]
    assert shown == ["0", "1", "0.01235", "1.50e-07", "123,456", "12,346", "2.00e+09", "nan", "-inf", ""]
    assert [duration(value) for value in (0.84, 45, 185, 7440, 59.9)] == [
        "0.8 s",
        "45 s",
        "3 min 05 s",
        "2 h 04 min",
        "1 min 00 s",
    ]


def test_perplexity_is_exp_of_the_loss_without_a_hidden_cap():
    assert perplexity(2.0) == math.exp(2)
    assert perplexity(1000.0) == math.inf
    assert math.isnan(perplexity(math.nan))


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_words_and_curves_stand_out_from_their_surface(theme):
    for colour in (theme.ink, theme.soft, theme.good, theme.warning, theme.bad, theme.odd):
        assert min(contrast(colour, theme.background), contrast(colour, theme.card)) >= 4.5
    assert min(contrast(colour, theme.background) for colour in theme.curves) >= 3


def test_the_rooms_import_no_torch():
    files = (
        "tracking.store",
        "tracking.writer",
        "tracking.run_folder",
        "report.dashboard",
        "report.run_table",
    )
    imports = ", ".join(f"torchstone.{file}" for file in files)
    code = f"import sys, {imports}; print({{'torch', 'numpy', 'matplotlib'}} & sys.modules.keys() or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def test_a_check_report_travels_through_the_store(store):
    store.start_run("c", name="n", kind="check", run_dir="")
    store.add_checks("c", ORDINARY)
    assert store.check_report("c") == ORDINARY
