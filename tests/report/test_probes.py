"""What was measured inside a run becomes one panel per quantity, one line per block, over its heads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest
from report.reports import a_run
from zoo.documented import schema

from torchstone._optional import available
from torchstone.cli.main import run
from torchstone.report.palette import DARK
from torchstone.report.probes_info import Line, ProbePanel, is_probe, probe_panels
from torchstone.report.run_info import run_info
from torchstone.tracking.rows import MetricRow
from torchstone.tracking.store import Store

CURVES = {
    "gates/blocks.1.attention/score/0": (0.5, 0.6),
    "gates/blocks.1.attention/score/1": (0.7, math.nan),
    "gates/blocks.0.attention/score/0": (0.1, 0.0),
    "gates/blocks.0.attention/score/1": (0.3, 0.4),
    "gates/$head/scale": (2.0, 1.0),
    "attention/blocks.0/entropy/0": (1.5, 1.25),
    "gates": (0.0, 0.0),
}
"""Values at the steps 5 and 10; the last is no probe, for it names nothing."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    with Store.open(tmp_path / "runs" / "store.db") as opened:
        a_run(opened, "20260101-a", steps=10)
        a_run(opened, "20260102-b", steps=10)
        rows = [
            MetricRow(key, step, value)
            for key, values in CURVES.items()
            for step, value in zip((5, 10), values, strict=True)
        ]
        opened.log_rows("20260101-a", rows)
        yield opened


def test_heads_become_a_line_and_blocks_a_panel(store: Store) -> None:
    scale, score, entropy = probe_panels(run_info(store, "20260101-a"))
    first = Line(0, [5, 10], [0.2, 0.2], [0.1, 0.0], [0.3, 0.4])
    second = Line(1, [5, 10], [0.6, 0.6], [0.5, 0.6], [0.7, 0.6])
    assert score == ProbePanel("gates", "attention: score", "", 2, [first, second])
    assert (scale.title, scale.num_heads, scale.lines) == (
        "$head: scale", 1, [Line(None, [5, 10], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0])],
    )  # fmt: skip
    assert (entropy.title, entropy.unit, entropy.lines[0].mean) == ("entropy", "nats", [1.5, 1.25])
    assert probe_panels(run_info(store, "20260102-b")) == []
    assert [is_probe(key) for key in ("val/loss", "gates", "gates/x/y")] == [False, False, True]


def test_the_command_tells_them_and_other_views_leave_them_out(store: Store, capsys) -> None:
    assert run(["runs", "probes", "20260101", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    jsonschema.validate(answer, schema("torchstone.probes/1"))
    assert len(answer["panels"]) == 3 and answer["picture"] is None
    assert run(["runs", "probes", "20260101"]) == 0
    table = capsys.readouterr().out
    assert "attention: score" in table and "entropy (nats)" in table
    assert run(["runs", "probes", "20260102"]) == 2
    assert "tracking.attention_samples" in capsys.readouterr().err
    for words in (["show", "20260101"], ["compare", "20260101", "20260102"]):
        assert run(["runs", *words]) == 0
        seen = capsys.readouterr().out
        assert "val/loss" in seen and "gates/blocks" not in seen
    assert run(["runs", "show", "20260101"]) == 0 and "6 measures" in capsys.readouterr().out


@pytest.mark.skipif(not available("matplotlib"), reason="needs the extra [plots]")
def test_the_picture_has_a_panel_for_each_and_is_the_same_each_time(store: Store, capsys) -> None:
    for name in ("a.png", "b.png"):
        assert run(["runs", "probes", "20260101", "--out", name]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    from torchstone.report.probes import probes_figure

    deep = [Line(block, [1, 2], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3]) for block in range(12)]
    for count, bars in ((5, 0), (12, 1)):
        figure = probes_figure("$a$", [ProbePanel("gates", "x: y", "", 2, deep[:count])], DARK)
        axes = figure.axes[0]
        assert len(figure.axes) == 1 + bars and (axes.get_legend() is None) == bool(bars)
        assert len({line.get_color() for line in axes.lines}) == count == len(axes.lines)
