"""A disk that fails, fills up, forgets or lies: the run goes on or ends in order, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.calls import why_not
from faults.job import Job, until
from faults.laws import damage, differences, facts, visible
from faults.rain import Rain

SHARES = 8
IN_EVERY_TEST_RUN = 2
needs_calls = pytest.mark.skipif(bool(why_not()), reason=why_not() or "calls can be watched")


@needs_calls
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(share, marks=[] if share < IN_EVERY_TEST_RUN else pytest.mark.campaign)
        for share in range(SHARES)
    ],
)
def test_every_kind_of_call_failing_once(
    new_job: Callable[..., Job], reference: dict[str, Any], labels: list[str], share: int
) -> None:
    rain = Rain(new_job, reference)
    for number, label in enumerate(labels[share::SHARES]):
        # A full disk is waited for, which takes a second each: one such call in eight.
        error = errno.ENOSPC if number % 8 == 0 else errno.EIO
        told = rain.strike_surely({"io": label, "count": 1, "errno": error})
        assert told["code"] in (0, 75), label
    rain.finish()
    assert rain.tally.broken == []


@needs_calls
def test_a_power_cut_finds_a_checkpoint_whole_or_not_at_all(new_job: Callable[..., Job]) -> None:
    """No kill shows what is only in the kernel's memory, so the order of the calls has to tell."""
    told = new_job().train(trace=True)
    named = "rename one/checkpoints/.step-N.N.partial"
    saves = "\n".join(told["trace"]).split(named + "\n")
    assert len(saves) > 4
    for before, after in itertools.pairwise(saves):
        calls = before.splitlines()
        written = {call.split(" ", 1)[1] for call in calls if call.startswith(("write ", "pwrite64 "))}
        files = {path for path in written if path.startswith("one/checkpoints/.step-N.N.partial/")}
        assert len(files) >= 3
        for path in files:
            kept = [place for place, call in enumerate(calls) if call == f"fsync {path}"]
            changed = [place for place, call in enumerate(calls) if call.endswith(f"write {path}")]
            assert kept and kept[-1] > changed[-1], f"{path} is named before it is on the disk"
        then = after.splitlines()
        assert then.index("fsync one/checkpoints") < then.index("rename one/.latest.N.partial")


@needs_calls
def test_rows_that_the_store_refuses_survive_a_kill(
    new_job: Callable[..., Job], reference: dict[str, Any]
) -> None:
    """A checkpoint counts rows as done only when they outlive the process, be it beside the store."""
    row, calls = "pwrite64 store.db-wal", new_job().train(trace=True)["trace"]
    save = calls.index("mkdir one/checkpoints/.step-N.N.partial")
    rain = Rain(new_job, reference)
    for count in (calls[:save].count(row), calls[:save].count(row) + 4):  # before the first save and after
        sick = {"io": row, "count": count, "errno": errno.EIO, "from_then_on": True}
        told = rain.strike({**sick, "kill_at": "rename one/.best.N.partial"})
        assert told["code"] == -9
        rain.finish()
    assert rain.tally.broken == []


# --- bytes that changed on the disk ------------------------------------------------------------------


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def swap(data: bytearray, rng: random.Random) -> None:
    """Two different bytes change places."""
    first = rng.randrange(len(data))
    second = rng.choice([place for place in range(len(data)) if data[place] != data[first]])
    data[first], data[second] = data[second], data[first]


@pytest.mark.parametrize("hurt", [flip, truncate, swap], ids=lambda hurt: hurt.__name__)
def test_damaged_checkpoints_are_set_aside(
    new_job: Callable[..., Job], reference: dict[str, Any], hurt: Callable[[bytearray, random.Random], None]
) -> None:
    rng = random.Random(hurt.__name__)
    job = new_job()
    told = job.train({"place": "forward", "count": 26, "what": "kill"})
    assert told["code"] == -9
    files = sorted(path.name for path in visible(job.run_dir)[-1].iterdir())
    assert len(files) >= 3
    for name in files:  # one file after the other: each time the newest that is still good
        good = [path for path in visible(job.run_dir) if not damage(path)]
        newest = max(good, key=lambda path: int(path.name.removeprefix("step-")), default=None)
        if newest is None:
            break
        data = bytearray((newest / name).read_bytes())
        hurt(data, rng)
        assert bytes(data) != (newest / name).read_bytes()
        (newest / name).write_bytes(data)
        told = job.train({"place": "forward", "count": 8, "what": "kill"})
        assert told["code"] == -9
        aside = [path.name for path in (job.run_dir / "checkpoints" / "quarantine").iterdir()]
        assert any(each.startswith(newest.name) for each in aside), (name, aside)
        assert newest.name not in {path.name for path in visible(job.run_dir) if damage(path)}
    assert job.train()["code"] == 0, job.said()
    assert differences(reference, facts(job.run_dir)) == []


# --- a disk without room -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all of the room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


@pytest.mark.parametrize("then", ["room", "signal"])
def test_a_full_disk_is_waited_for(
    new_job: Callable[..., Job], reference: dict[str, Any], small_disk: Path, then: str
) -> None:
    job = new_job(base=small_disk / "base")
    job.log = small_disk.parent / "log.txt"
    child = job.train({"place": "forward", "count": 16, "what": "stop"})
    assert child["stopped"], job.said()
    ballast = fill(small_disk)
    os.kill(child["pid"], signal.SIGCONT)
    until(lambda: "no space left" in job.said() or "full" in job.said())
    if then == "room":
        ballast.unlink()
        assert job.server.ask({"wait": child["pid"]})["code"] == 0, job.said()
    else:
        os.kill(child["pid"], signal.SIGTERM)
        assert job.server.ask({"wait": child["pid"]})["code"] in (75, 143), job.said()
        assert job.train()["code"] != 0, "there is still no room"
        ballast.unlink()
        assert job.train()["code"] == 0, job.said()
    assert differences(reference, facts(job.run_dir)) == []


def test_files_that_may_not_grow(new_job: Callable[..., Job], reference: dict[str, Any]) -> None:
    rain = Rain(new_job, reference)
    told = rain.strike({"file_limit": 6000})
    assert told["code"] == 75, rain.job and rain.job.said()
    rain.finish()
    assert rain.tally.broken == []
