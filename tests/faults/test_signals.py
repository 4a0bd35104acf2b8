"""SIGTERM, SIGINT and SIGUSR1 in any phase: the state is saved, the exit code says so, the run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.calls import why_not
from faults.job import Job, Server
from faults.laws import visible
from faults.rain import Rain

CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 75}
IN_THE_MODEL = [
    {"place": "build", "count": 1},
    {"place": "forward", "count": 1},
    {"place": "backward", "count": 2},
    {"place": "forward", "count": 8},
    {"place": "snapshot", "count": 1},
    {"place": "evaluate", "count": 1},
    {"place": "evaluate", "count": 2},
    {"place": "backward", "count": 6},
]
"""Model load, first batch, backward pass, middle of a window, save, validation; each after a resume."""
AT_CALLS = [
    "mkdir one",
    "write one/.config.json.N.partial",
    "pwrite64 store.db-wal",
    "rename one/.run.json.N.partial",
    "fsync one/checkpoints/.step-N.N.partial/model.safetensors",
    "rename one/checkpoints/.step-N.N.partial",
    "rename one/.latest.N.partial",
    "rename one/checkpoints/step-N",
    "rename one/.report.json.N.partial",
]
"""The folder, its first files, rows, a checkpoint, its pointer, retention, the report; in their order."""
AT_THE_END = ["write one/.dashboard.html.N.partial", "unlink store.db-wal"]
needs_calls = pytest.mark.skipif(bool(why_not()), reason=why_not() or "calls can be watched")


@pytest.mark.parametrize("name", CODES)
def test_a_signal_while_the_model_works(
    new_job: Callable[..., Job], reference: dict[str, Any], name: str
) -> None:
    rain = Rain(new_job, reference)
    for place in IN_THE_MODEL:
        told = rain.strike_surely({**place, "what": "signals", "signals": [name]})
        assert told["code"] == CODES[name], place
    rain.finish()
    assert rain.tally.broken == []


@pytest.mark.parametrize("micro_step", [15, 36])
def test_a_validation_that_a_signal_does_not_let_begin(
    new_job: Callable[..., Job], reference: dict[str, Any], micro_step: int
) -> None:
    """That of step 5, and that of the last: the resumed run makes up for it, and saves what came of it."""
    rain = Rain(new_job, reference)
    told = rain.strike({"place": "backward", "count": micro_step, "what": "signals", "signals": ["SIGUSR1"]})
    assert told["code"] == 75
    rain.finish()
    assert rain.tally.broken == []


@needs_calls
@pytest.mark.parametrize("stride", [len(CODES), pytest.param(1, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("name", CODES)
def test_a_signal_while_something_is_written(
    new_job: Callable[..., Job], reference: dict[str, Any], name: str, stride: int
) -> None:
    """Every call under one of the signals; in the campaign under each."""
    rain = Rain(new_job, reference)
    for label in AT_CALLS[list(CODES).index(name) % stride :: stride]:
        told = rain.strike_surely({"io": label, "count": 1, "signals": [name]})
        assert (told["struck"], told["code"]) == (label, CODES[name])
    rain.finish()
    assert rain.tally.broken == []


@needs_calls
@pytest.mark.parametrize("label", AT_THE_END)
def test_a_signal_after_the_last_step(
    new_job: Callable[..., Job], reference: dict[str, Any], label: str
) -> None:
    rain = Rain(lambda: new_job("tracking.dashboard=true"), reference)
    told = rain.strike_surely({"io": label, "count": 1, "signals": ["SIGUSR1"]})
    assert (told["struck"], told["code"]) == (label, 75)
    rain.finish()
    assert rain.tally.broken == []


@needs_calls
def test_a_second_signal_during_the_save_that_the_first_asked_for(
    new_job: Callable[..., Job], reference: dict[str, Any], labels: list[str]
) -> None:
    first = {"place": "forward", "count": 5, "what": "signals", "signals": ["SIGTERM"]}
    for label in [label for label in labels if "checkpoints/." in label or "latest" in label][::6]:
        rain = Rain(new_job, reference)
        told = rain.strike({"io": label, "count": 1, "signals": ["SIGINT", "SIGINT"], "with": first})
        if not told["struck"]:  # a call that only later saves make
            continue
        assert told["code"] == 143, label
        assert [path.name for path in visible(rain.job.run_dir)] == ["step-2"], "the state is saved"
        rain.finish()
        assert rain.tally.broken == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is being imported")
@pytest.mark.parametrize("name", CODES)
def test_a_signal_while_torch_is_imported(server: Server, tmp_path: Path, name: str) -> None:
    job = Job(server, tmp_path / "job")
    process = subprocess.Popen(
        [sys.executable, "-m", "torchstone", *job.argv],
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text(encoding="utf-8"):
        assert process.poll() is None
    process.send_signal(signal.Signals[name])
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == CODES[name], said
    assert name in said and "Traceback" not in said
    assert not job.run_dir.exists()
