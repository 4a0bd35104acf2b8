"""A full disk is refused before the first step, or waited for; it is no death. On real small file systems."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from laws.small_run import same_bits, small_engine

from torchstone._errors import DiskFull
from torchstone.tracking.checkpoint import damage, steps_of
from torchstone.train import space
from torchstone.train.hooks import CheckpointInfo, StepInfo
from torchstone.train.retention import pointed
from torchstone.train.saving import Keeping, Saver

SIZE_KIB = 2048


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of two MiB. Only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("this system has no `mount`")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def fill(folder: Path, leave_kib: int) -> Path:
    filler = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    filler.write_bytes(b"\0" * (free - 1024 * leave_kib))
    return filler


class WhenWaiting(logging.Handler):
    """Does something each time a save says that it waits."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__()
        self.act, self.said = act, []

    def emit(self, record: logging.LogRecord) -> None:
        if "training waits" in record.getMessage():
            self.said.append(record.getMessage())
            self.act(len(self.said))


@pytest.fixture
def when_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int], None]], WhenWaiting]]:
    monkeypatch.setattr(space, "FIRST_PAUSE_S", 0.01)
    handlers = []

    def listen(act: Callable[[int], None]) -> WhenWaiting:
        handlers.append(WhenWaiting(act))
        space.log.addHandler(handlers[-1])
        return handlers[-1]

    yield listen
    for handler in handlers:
        space.log.removeHandler(handler)


class FillAt:
    """Somebody else fills the disk at a step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            for thread in threading.enumerate():
                if thread.name == "torchstone-save":  # what was begun before is done
                    thread.join()
            fill(self.folder, leave_kib=8)


@pytest.mark.parametrize("aside", [False, True])
def test_a_run_goes_on_when_there_is_space_again(
    small_disk: Path, aside: bool, when_waiting: Callable[..., WhenWaiting]
) -> None:
    def make_room(times: int) -> None:
        assert steps_of(small_disk / "checkpoints") == [4], "the last good one was touched"
        if times == 3:
            (small_disk / "filler").unlink()

    waiting = when_waiting(make_room)
    straight = small_engine(None)
    straight.run()
    saved: list[int] = []

    class Listen:
        def on_checkpoint(self, info: CheckpointInfo) -> None:
            saved.append(info.step)

    loop = {"checkpoint_every": 4, "eval_every": 100, "async_save": aside, "keep_last": 1}
    engine = small_engine(small_disk, loop=loop, hooks=(FillAt(small_disk, 6), Listen()))
    assert engine.run().status == "completed"
    assert len(waiting.said) == 3
    assert "no space left for the checkpoint of step 8" in waiting.said[0]
    assert str(small_disk) in waiting.said[0] and "MB are free" in waiting.said[0]
    pauses = [float(line.rpartition(" in ")[2].removesuffix(" s")) for line in waiting.said]
    assert pauses == sorted(set(pauses)), "the intervals grow"
    assert saved == [4, 8, 12, 16, 18]
    assert same_bits(straight.module.state_dict(), engine.module.state_dict())
    assert not any(damage(path) for path in (small_disk / "checkpoints").iterdir())


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_wait_with_the_last_good_one_intact(
    small_disk: Path, aside: bool, number: int, when_waiting: Callable[..., WhenWaiting]
) -> None:
    when_waiting(lambda times: os.kill(os.getpid(), number) if times == 2 else None)
    loop = {"checkpoint_every": 4, "eval_every": 100, "async_save": aside}
    engine = small_engine(small_disk, loop=loop, hooks=(FillAt(small_disk, 7),))
    with pytest.raises(DiskFull, match=signal.Signals(number).name) as caught:
        engine.run()
    assert caught.value.exit_code == 75
    assert steps_of(small_disk / "checkpoints") == [4]
    assert damage(small_disk / "checkpoints" / "step-4") == []
    assert pointed(small_disk, "latest") == "step-4"
    (small_disk / "filler").unlink()
    straight = small_engine(None, loop=loop)
    straight.run()
    resumed = small_engine(small_disk, loop=loop, resume=True)
    resumed.run()
    assert same_bits(straight.module.state_dict(), resumed.module.state_dict())


def test_the_clock_ends_the_wait(small_disk: Path, when_waiting: Callable[..., WhenWaiting]) -> None:
    engine = small_engine(small_disk, loop={"checkpoint_every": 4}, hooks=(FillAt(small_disk, 7),))

    def time_is_up(times: int) -> None:
        engine.max_time_s = 1e-9

    when_waiting(time_is_up)
    with pytest.raises(DiskFull, match="max_time_s"):
        engine.run()


class Never:
    def on_step(self, info: StepInfo) -> None:
        raise AssertionError("a step was trained")


def test_too_small_a_disk_is_refused_before_the_first_step(small_disk: Path) -> None:
    fill(small_disk, leave_kib=200)
    engine = small_engine(small_disk, loop={"keep_last": 4}, hooks=(Never(),))
    with pytest.raises(DiskFull, match="will not fit") as caught:
        engine.run()
    error = caught.value
    assert error.exit_code == 75
    assert "0.1 MB" in error.why and "0.2 MB are free" in error.why and "keep_last" in error.next
    assert steps_of(small_disk / "checkpoints") == []
    # Fewer at once do fit.
    assert small_engine(small_disk, loop={"keep_last": 1, "max_steps": 1}).run().status == "completed"


def test_a_nearly_full_disk_is_a_warning(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = small_engine(small_disk, loop={"max_steps": 1})
    need = space.checkpoint_bytes(engine.module, engine.optimizer)
    fill(small_disk, leave_kib=int(1.1 * need) // 1024)
    assert engine.run().status == "completed"
    assert "nearly full" in caplog.text


def test_what_lies_there_already_is_not_asked_for_twice(small_disk: Path) -> None:
    loop = {"checkpoint_every": 1, "keep_last": 2}
    small_engine(small_disk, loop={**loop, "max_steps": 9}).run()
    engine = small_engine(small_disk, loop=loop, resume=True)
    need = space.checkpoint_bytes(engine.module, engine.optimizer)
    fill(small_disk, leave_kib=int(2.6 * need) // 1024)
    assert engine.run().status == "completed"


def test_a_resumed_run_with_nothing_left_needs_no_space(small_disk: Path) -> None:
    small_engine(small_disk).run()
    fill(small_disk, leave_kib=4)
    assert small_engine(small_disk, resume=True).run().status == "completed"


def test_a_full_disk_while_a_pointer_is_written_is_waited_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when_waiting: Callable[..., WhenWaiting]
) -> None:
    from torchstone.train import saving

    real, full = saving.point, [OSError(28, "No space left on device")]

    def point(run_dir: Path, name: str, step: int) -> None:
        if full:
            raise full.pop()
        real(run_dir, name, step)

    monkeypatch.setattr(saving, "point", point)
    waiting = when_waiting(lambda times: None)
    engine = small_engine(None)
    saver = Saver(Keeping(run_dir=tmp_path, config_hash="c", model={}))
    engine.progress.step = 1
    saver.save(engine.module, engine.optimizer, engine.progress)
    assert len(waiting.said) == 1 and pointed(tmp_path, "latest") == "step-1"
