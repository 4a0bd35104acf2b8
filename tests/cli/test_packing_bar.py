"""While text is encoded: a bar on a terminal, lines in a pipe, nothing when quiet."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from torchstone.cli import train_view
from torchstone.cli.train_view import TrainView


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False) -> str:
    monkeypatch.setattr(train_view, "LINE_S", 0.0)
    monkeypatch.setattr(train_view, "REDRAW_S", 0.0)
    view = TrainView(quiet=quiet, sample_tokens=0)
    out = StringIO()
    view._out = Console(file=out, force_terminal=terminal, width=80)
    for done in (1_000_000, 3_000_000, 4_000_000):
        view.on_packing(done, 4_000_000)
    view.close()
    return out.getvalue()


def test_a_bar_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = shown(monkeypatch, terminal=True)
    assert "tokens" in bar and "4.0" in bar
    assert "\x1b[?25h" in bar  # the cursor is back
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert lines[1] == "tokens: 3 of 4 MB of text" and len(lines) == 3
    assert shown(monkeypatch, terminal=True, quiet=True) == ""
