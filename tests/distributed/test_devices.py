"""How many processes a job takes: what was asked for, what there is, and what a starter has made already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchstone._errors import ConfigError, DataError, EnvironmentProblem, Interrupted
from torchstone.cli.main import run
from torchstone.train.config import LoopConfig
from torchstone.train.devices import available_devices, processes_to_launch, refuse_apart
from torchstone.train.launch import FOLDER, _passing_signals_on, as_rank, interrupted

CORES = os.cpu_count() or 1
RANK_1 = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("knobs", "processes"),
    [({}, 1), ({"devices": 1}, 1), ({"strategy": "ddp", "devices": 1}, 1), ({"devices": CORES}, CORES)],
)
def test_on_a_cpu_as_many_as_were_asked_for(knobs: dict[str, Any], processes: int) -> None:
    assert processes_to_launch(LoopConfig(**knobs), "cpu", {}) == processes


def test_more_devices_than_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = run(
        ["train", "zoo:gpt-nano", "--devices", "999", "--device", "cpu", "--run-dir", str(tmp_path / "r")]
    )
    assert code == 5
    said = capsys.readouterr().err
    assert f"train.devices = 999, but there {'is' if CORES == 1 else 'are'} {CORES} here" in said
    assert f"--devices {CORES}" in said
    assert not (tmp_path / "r").exists()


def test_an_unknown_strategy_suggests_a_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "zoo:gpt-nano", "--strategy", "fsdp2"]) == 2
    assert "fsdp" in capsys.readouterr().err


def test_who_is_a_rank_already_launches_nothing() -> None:
    assert processes_to_launch(LoopConfig(strategy="ddp"), "cpu", RANK_1) == 1
    assert processes_to_launch(LoopConfig(devices=2), "cpu", RANK_1) == 1
    with pytest.raises(ConfigError, match="torchrun started 2 processes"):
        processes_to_launch(LoopConfig(devices=3), "cpu", RANK_1)


def test_several_machines_need_a_starter_on_each() -> None:
    with pytest.raises(EnvironmentProblem, match="torchrun --nnodes 2"):
        processes_to_launch(LoopConfig(num_nodes=2), "cpu", {})


def test_one_gpu_by_name_is_not_several() -> None:
    if available_devices("cuda:0")[0] < 2:
        pytest.skip("needs two devices")
    with pytest.raises(ConfigError, match="contradict"):
        processes_to_launch(LoopConfig(devices=2), "cuda:0", {})


@pytest.mark.parametrize(
    "knobs",
    [
        {"strategy": "fsdp", "ema_decay": 0.9},
        {"strategy": "fsdp", "precision": "fp16"},
        {"strategy": "fsdp", "loss_chunk": 64},
        {"strategy": "ddp", "on_nonfinite": "rollback"},
    ],
)
def test_what_several_ranks_cannot_do_is_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="several devices"):
        refuse_apart(LoopConfig(**knobs))


def test_a_launched_rank_leaves_its_error_to_the_launcher(tmp_path: Path) -> None:
    with as_rank(environ=RANK_1 | {FOLDER: str(tmp_path)}) as rank:
        raise DataError("no such text", where="here")
    assert rank.exit_code == 4
    told = json.loads((tmp_path / "rank-1.json").read_text())
    assert (told["what"], told["where"], told["exit_code"]) == ("no such text", "here", 4)


def test_a_launched_run_that_was_stopped_is_no_failure_of_its_ranks(tmp_path: Path) -> None:
    with as_rank(environ=RANK_1 | {"RANK": "0", FOLDER: str(tmp_path)}) as rank:
        rank.ended(75)
    assert rank.exit_code == 0
    assert json.loads((tmp_path / "end.json").read_text()) == {"exit_code": 75}


def test_other_processes_keep_their_own_code_and_errors() -> None:
    with as_rank(environ=RANK_1) as rank:
        rank.ended(75)
    assert rank.exit_code == 75
    with pytest.raises(DataError), as_rank(environ={}):
        raise DataError("mine")


WAITS = (
    "import signal, sys; signal.signal(int(sys.argv[1]), signal.SIG_DFL); print(flush=True); signal.pause()"
)
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)]


@pytest.mark.parametrize(("sent", "code"), SIGNALS)
def test_a_launcher_passes_a_signal_on_to_ranks_alone_and_ends_with_its_code(
    sent: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-S", "-c", WAITS, str(int(sent))]
    rank = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        with rank, other:
            assert rank.stdout and other.stdout and rank.stdout.readline() and other.stdout.readline()
            with _passing_signals_on() as received:
                os.kill(os.getpid(), sent)
                assert rank.wait(10) == -sent
            assert received == [sent] and other.poll() is None
            assert interrupted(received[0], begun=True).exit_code == code
            other.kill()
    finally:
        rank.kill()
        other.kill()


@pytest.mark.parametrize(("sent", "code"), SIGNALS)
def test_a_signal_before_there_are_ranks_ends_the_launch(sent: signal.Signals, code: int) -> None:
    before = signal.getsignal(sent)
    with pytest.raises(Interrupted, match="stopped by") as stopped, _passing_signals_on():
        os.kill(os.getpid(), sent)
    assert stopped.value.exit_code == code
    assert signal.getsignal(sent) is before
