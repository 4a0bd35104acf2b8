"""L3: a resumed run equals the uninterrupted one bit for bit on a CPU, wherever it was stopped or killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.small_run import same_bits, small_engine, untimed

from torchstone._files import read_json
from torchstone.tracking.checkpoint import steps_of
from torchstone.train.hooks import CheckpointInfo, EvalInfo, StepInfo


class SendSignal:
    """Sends a signal to this process while step `step` is being reported."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_resumed_equals_uninterrupted(tmp_path: Path, accumulation: int) -> None:
    straight_rows: dict[tuple[str, int], float] = {}
    straight = small_engine(None, accumulation=accumulation, rows=straight_rows)
    assert straight.run().status == "completed"

    for cut in range(1, straight.pace.total_steps):
        rows: dict[tuple[str, int], float] = {}
        run_dir = tmp_path / f"cut-{cut}"
        first = small_engine(run_dir, accumulation=accumulation, rows=rows, hooks=(SendSignal(cut),))
        ending = first.run()
        assert (ending.status, ending.exit_code, first.progress.step) == ("interrupted", 143, cut)

        second = small_engine(run_dir, accumulation=accumulation, rows=rows, resume=True)
        assert second.progress.step == cut
        assert second.run().status == "completed"
        assert same_bits(straight.module.state_dict(), second.module.state_dict())
        assert untimed(rows) == untimed(straight_rows)
        assert second.progress.best_step == straight.progress.best_step


@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 17), max_size=4), every=st.integers(1, 7))
def test_many_stops_and_other_paces(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], every: int
) -> None:
    loop = {"eval_every": every, "checkpoint_every": 4}
    straight_rows: dict[tuple[str, int], float] = {}
    straight = small_engine(None, rows=straight_rows, loop=loop)
    straight.run()
    run_dir = tmp_path_factory.mktemp("run")
    rows: dict[tuple[str, int], float] = {}
    for cut in sorted(cuts):
        small_engine(run_dir, rows=rows, loop=loop, hooks=(SendSignal(cut),), resume=True).run()
    last = small_engine(run_dir, rows=rows, loop=loop, resume=True)
    assert last.run().status == "completed"
    assert same_bits(straight.module.state_dict(), last.module.state_dict())
    assert untimed(rows) == untimed(straight_rows)


class Die:
    """Kills this process outright at the n-th event of a run: a step, a validation, a save."""

    def __init__(self, event: int) -> None:
        self.left = event

    def _count(self, info: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step(self, info: StepInfo) -> None:
        self._count(info)

    def on_eval(self, info: EvalInfo) -> None:
        self._count(info)

    def on_checkpoint(self, info: CheckpointInfo) -> None:
        self._count(info)


def train_in_fork(run_dir: Path, hooks: tuple[object, ...]) -> int:
    """Continue the run in a child of this process (torch is loaded already); its wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            journal = (run_dir / "rows.jsonl").open("a", encoding="utf-8")

            def log_row(step: int, values: dict[str, float]) -> None:
                print(json.dumps([step, values]), file=journal, flush=True)

            engine = small_engine(run_dir, accumulation=2, hooks=hooks, log_row=log_row, resume=True)
            code = 0 if engine.run().status == "completed" else 1
            torch.save(engine.module.state_dict(), run_dir / "final.pt")
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def test_killed_run_equals_uninterrupted(tmp_path: Path) -> None:
    straight_rows: dict[tuple[str, int], float] = {}
    straight = small_engine(None, accumulation=2, rows=straight_rows)
    straight.run()

    for event in (1, 3, 4, 5, 8, 11, 14):
        run_dir = tmp_path / f"kill-{event}"
        run_dir.mkdir()
        assert os.WTERMSIG(train_in_fork(run_dir, (Die(event),))) == signal.SIGKILL
        assert os.waitstatus_to_exitcode(train_in_fork(run_dir, ())) == 0
        final = torch.load(run_dir / "final.pt", weights_only=True)
        assert same_bits(straight.module.state_dict(), final), f"killed at event {event}"
        lines = (run_dir / "rows.jsonl").read_text().splitlines()
        rows: dict[tuple[str, int], float] = {}
        for step, values in map(json.loads, lines):
            rows.update({(key, step): value for key, value in values.items()})
        assert untimed(rows) == untimed(straight_rows)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)]
)
def test_signals_save_and_say_how_to_exit(tmp_path: Path, number: int, code: int) -> None:
    engine = small_engine(tmp_path, hooks=(SendSignal(3, number),))
    ending = engine.run()
    assert (ending.exit_code, ending.reason) == (code, signal.Signals(number).name)
    assert steps_of(tmp_path / "checkpoints") == [3]
    assert (tmp_path / "latest").read_text() == "step-3\n"


def test_second_signal_does_not_tear_the_save(tmp_path: Path) -> None:
    class Impatient:
        def on_step(self, info: StepInfo) -> None:
            if info.step >= 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)

        def on_checkpoint(self, info: CheckpointInfo) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    ending = small_engine(tmp_path, hooks=(Impatient(),)).run()
    assert ending.exit_code == 130
    assert small_engine(tmp_path, resume=True).progress.step == 2


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    small_engine(None, epochs=1).run()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_clock_stops_with_the_state_saved(tmp_path: Path) -> None:
    ending = small_engine(tmp_path, loop={"max_time_s": 1e-9}).run()
    assert (ending.status, ending.exit_code) == ("interrupted", 75)


def test_progress_survives_as_numbers(tmp_path: Path) -> None:
    engine = small_engine(tmp_path, epochs=1)
    engine.run()
    again: Any = small_engine(tmp_path, epochs=1, resume=True)
    mine, theirs = engine.progress.to_dict(), again.progress.to_dict()
    assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
    assert read_json(tmp_path / "checkpoints" / "step-6" / "manifest.json")["step"] == 6
