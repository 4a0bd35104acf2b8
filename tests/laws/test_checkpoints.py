"""L1 and L2: no reader sees a partial checkpoint; a bad one is set aside and the newest good one is used.

Faults are real: bytes flipped on disk, files cut, and every call that reaches the disk failing or killing
the process once.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.small_run import TinyLM, same_bits, small_engine
from torch import nn

from torchstone import _files
from torchstone._errors import DiskFull, ModelError
from torchstone.tracking.checkpoint import (
    CheckpointDamaged,
    newest_good,
    open_checkpoint,
    steps_of,
    sweep,
    write_checkpoint,
)
from torchstone.train.retention import pointed, prune, to_remove
from torchstone.train.snapshot import load_weights

STATE = {"progress": {"step": 3}, "rng": [1, 2], "moment": torch.arange(5.0)}


def write(checkpoints: Path, step: int, module: nn.Module | None = None) -> Path:
    tensors = (module or TinyLM()).state_dict(keep_vars=True)
    return write_checkpoint(checkpoints, step, tensors, STATE, config_hash="c", model={"class": "TinyLM"})


def test_round_trip_with_tied_weights(tmp_path: Path) -> None:
    module = TinyLM()
    checkpoint = open_checkpoint(write(tmp_path, 3, module))
    assert (checkpoint.step, checkpoint.config_hash, checkpoint.model) == (3, "c", {"class": "TinyLM"})
    assert checkpoint.manifest["tied"] == {"head.weight": "embedding.weight"}
    assert same_bits(dict(module.state_dict()), checkpoint.tensors())
    state = checkpoint.state()
    assert torch.equal(state.pop("moment"), STATE["moment"])
    assert state == {name: value for name, value in STATE.items() if name != "moment"}
    other = TinyLM()
    load_weights(other, checkpoint)
    assert other.head.weight is other.embedding.weight
    assert same_bits(module.state_dict(), other.state_dict())


def test_overlapping_views_and_odd_layouts(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "all": base,
        "row": base[1],
        "turned": base.t(),
        "none": torch.empty(0, 2),
        "n": torch.tensor(5),
    }
    path = write_checkpoint(tmp_path, 1, tensors, {}, config_hash="c")
    assert same_bits(tensors, open_checkpoint(path).tensors())


def flip_byte(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def truncate(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])


def empty(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")


def swap_bytes(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    half = len(data) // 2
    (folder / name).write_bytes(data[half:] + data[:half])


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("fault", [flip_byte, truncate, empty, swap_bytes, remove])
def test_damage_is_found_and_the_newest_good_one_used(
    tmp_path: Path, fault: Callable[[Path, str], None], name: str
) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    write(tmp_path, 3)
    fault(tmp_path / "step-3", name)
    with pytest.raises(CheckpointDamaged, match=name.split(".")[0]):
        open_checkpoint(tmp_path / "step-3")
    found = newest_good(tmp_path)
    assert found is not None and found.step == 2
    assert (tmp_path / "quarantine" / "step-3").is_dir()
    assert steps_of(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '{"schema": "torchstone.checkpoint/9", "files": {}, "step": 1}', "\xff"]
)
def test_nonsense_manifests(tmp_path: Path, text: str) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-1" / "manifest.json").write_text(text, encoding="latin-1")
    assert newest_good(tmp_path) is None
    write(tmp_path, 1)
    (tmp_path / "step-1" / "manifest.json").write_text(text, encoding="latin-1")
    assert newest_good(tmp_path) is None
    assert sorted(path.name for path in (tmp_path / "quarantine").iterdir()) == ["step-1", "step-1.2"]


@pytest.mark.parametrize("in_one_move", [True, False])
def test_a_step_that_is_saved_again_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_move: bool
) -> None:
    if not in_one_move:  # as where the file system cannot
        monkeypatch.setattr(_files, "_exchange", lambda one, other: False)
    write(tmp_path, 1)
    again = TinyLM()
    write(tmp_path, 1, again)
    assert same_bits(dict(again.state_dict()), open_checkpoint(tmp_path / "step-1").tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux is asked for it")
def test_two_folders_change_names_in_one_move(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was-{name}").touch()
    assert _files._exchange(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "was-new").exists() and (tmp_path / "new" / "was-old").exists()
    with pytest.raises(FileNotFoundError):
        _files._exchange(tmp_path / "new", tmp_path / "absent")


# --- every call that reaches the disk, failing once or killing the process ------------------------

CALLS = ("fsync", "rename", "replace", "mkdir", "open", "write")


class Fault:
    """Counts the calls of `os` that change the disk, and strikes at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, strike: Callable[[], None], at: int) -> None:
        self.calls, self.at, self.strike = 0, at, strike
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.strike()
            return call(*args, **kwargs)

        return counted


def fail() -> None:
    raise OSError(errno.EIO, "injected")


def full() -> None:
    raise OSError(errno.ENOSPC, "injected")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def places(tmp_path: Path) -> Iterator[int]:
    """Numbers of the calls that one save makes."""
    write(tmp_path / "count", 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault = Fault(monkeypatch, fail, at=0)
        write(tmp_path / "count", 2)
    assert fault.calls >= 10
    yield from range(1, fault.calls + 1)


def test_each_call_failing_once_leaves_a_readable_store(tmp_path: Path) -> None:
    for at in places(tmp_path):
        checkpoints = tmp_path / f"at-{at}"
        write(checkpoints, 1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(monkeypatch, fail, at)
            try:
                written = open_checkpoint(write(checkpoints, 2)).step == 2
            except OSError as error:
                written = "injected" not in str(error)
        assert written == (checkpoints / "step-2").exists() or not written
        found = newest_good(checkpoints)
        assert found is not None
        assert not (checkpoints / "quarantine").exists(), "a reader met a bad checkpoint"
        assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".")] == []
        assert open_checkpoint(write(checkpoints, 2)).step == 2


def test_each_call_killing_the_writer_leaves_a_readable_store(tmp_path: Path) -> None:
    for at in places(tmp_path):
        checkpoints = tmp_path / f"kill-{at}"
        write(checkpoints, 1)
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as monkeypatch:
                Fault(monkeypatch, die, at)
                write(checkpoints, 2)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert newest_good(checkpoints) is not None
        assert not (checkpoints / "quarantine").exists(), "a reader met a bad checkpoint"
        sweep(checkpoints)
        assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".")] == []
        assert open_checkpoint(write(checkpoints, 2)).step == 2


def test_all_is_flushed_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []
    fsync, rename = os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("flush", os.fstat(descriptor).st_ino))

    def renamed(source: Path, target: Path) -> None:
        rename(source, target)
        events.append(("name", target.stat().st_ino))

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    path = write(tmp_path, 1)
    named = events.index(("name", path.stat().st_ino))
    before, after = events[:named], events[named + 1 :]
    assert {("flush", each.stat().st_ino) for each in (path, *path.iterdir())} <= set(before)
    assert ("flush", tmp_path.stat().st_ino) in after


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    Fault(monkeypatch, full, at=4)
    with pytest.raises(DiskFull, match="step 2") as caught:
        write(tmp_path, 2)
    assert caught.value.exit_code == 75
    assert steps_of(tmp_path) == [1]


# --- what stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_last", [0, 1, 2, 5])
def test_retention_keeps_the_last_and_the_best(keep_last: int) -> None:
    for number, best in itertools.product(range(6), [None, 1, 2, 5]):
        steps = list(range(1, number + 1))
        kept = set(steps) - set(to_remove(steps, keep_last=keep_last, best=[] if best is None else [best]))
        assert kept >= set(steps[-1:])
        assert best not in steps or best in kept
        assert len(kept) <= max(keep_last, 1) + 1


def test_retention_in_a_run(tmp_path: Path) -> None:
    engine = small_engine(tmp_path, epochs=4, loop={"checkpoint_every": 3})
    engine.run()
    best = engine.progress.best_step
    assert set(steps_of(tmp_path / "checkpoints")) == {21, 24} | {best}
    assert pointed(tmp_path, "latest") == "step-24"
    assert pointed(tmp_path, "best") == f"step-{best}"


def test_prune_spares_what_is_newer_than_the_sound_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    flip_byte(tmp_path / "step-3", "state.safetensors")
    prune(tmp_path, keep_last=1, best=None, just_written=2)
    found = newest_good(tmp_path)
    assert found is not None and found.step == 2


def test_resume_falls_back_over_a_bad_checkpoint(tmp_path: Path) -> None:
    straight = small_engine(None)
    straight.run()
    small_engine(tmp_path, loop={"checkpoint_every": 4, "max_steps": 12}).run()
    flip_byte(tmp_path / "checkpoints" / "step-12", "model.safetensors")
    resumed = small_engine(tmp_path, resume=True)
    assert resumed.progress.step < 12


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, 1))
    other = TinyLM(width=12)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        ModelError, match=r"embedding\.weight has shape \(17, 12\), in the checkpoint \(17, 8\)"
    ):
        load_weights(other, checkpoint)
    assert same_bits(before, dict(other.state_dict()))
