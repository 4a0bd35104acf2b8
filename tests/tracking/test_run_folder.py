"""Laws of the run folder: one writer at a time, safe names, a lock that dies with its process."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import RunLocked, UsageError
from torchstone.tracking.run_folder import RunFolder, holder, new_run_id, safe_name

fork = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(name="gpt-nano", root=tmp_path)


@settings(deadline=None)
@given(st.text())
def test_any_name_becomes_a_safe_one(name):
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}", safe) or safe.startswith("_")
    assert not safe.startswith((".", "-"))
    assert safe_name(safe) == safe


def test_a_run_id_tells_when_and_what_and_is_unique():
    ids = {new_run_id("Größe: 3/4 <b>") for _ in range(20)}
    assert len(ids) > 18  # 4 hex digits, all within one second
    assert all(re.fullmatch(r"\d{8}-\d{6}-Groe-3-4-b-[0-9a-f]{4}", each) for each in ids)


def test_a_new_folder_is_named_after_its_run_and_opens_again(folder, tmp_path):
    assert folder.path == tmp_path / folder.run_id
    assert folder.checkpoints.is_dir()
    again = RunFolder.open(folder.path)
    assert (again.run_id, again.name, again.info["status"]) == (folder.run_id, "gpt-nano", "created")
    folder.write_config({"a": [1, None]})
    assert again.read_config() == {"a": [1, None]}


def test_status_keeps_the_first_start(folder):
    folder.set_status("running")
    started = folder.info["started"]
    folder.set_status("interrupted")
    assert folder.info["ended"] >= started
    folder.set_status("running")
    assert (folder.info["started"], folder.info["ended"]) == (started, None)
    with pytest.raises(UsageError, match="no status 'done'"):
        folder.set_status("done")


def test_a_folder_with_a_run_is_not_taken_for_a_new_one(folder):
    before = sorted(folder.path.rglob("*"))
    with pytest.raises(UsageError, match="holds a run already") as refusal:
        RunFolder.create(folder.path, name="other")
    assert "--resume auto" in refusal.value.next
    assert sorted(folder.path.rglob("*")) == before
    with pytest.raises(UsageError, match="no run in this folder"):
        RunFolder.open(folder.path / "checkpoints")


def test_a_second_holder_is_refused_with_the_pid_of_the_first(folder):
    assert holder(folder.path) is None
    with folder.locked():
        assert holder(folder.path) == os.getpid()
        with pytest.raises(RunLocked, match=f"process {os.getpid()} ") as refusal, folder.locked():
            pass
        assert refusal.value.exit_code == 75
        assert holder(folder.path) == os.getpid()
    assert holder(folder.path) is None
    with folder.locked():
        pass


def hold(path: Path, held, grandchild) -> None:
    with RunFolder.open(path).locked():
        worker = fork.Process(target=signal.pause)  # such as a data loader's worker
        worker.start()
        grandchild.value = worker.pid
        held.set()
        signal.pause()


def test_a_killed_holder_frees_the_lock_though_its_workers_live_on(folder):
    held, grandchild = fork.Event(), fork.Value("i", 0)
    child = fork.Process(target=hold, args=(folder.path, held, grandchild))
    child.start()
    assert held.wait(30)
    try:
        assert holder(folder.path) == child.pid
        with pytest.raises(RunLocked, match=f"process {child.pid} "), folder.locked():
            pass
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        os.kill(grandchild.value, 0)  # the worker is still there
        with folder.locked():
            assert holder(folder.path) == os.getpid()
    finally:
        os.kill(grandchild.value, signal.SIGKILL)


def test_a_glance_at_the_lock_does_not_refuse_a_run(folder):
    with folder.locked():
        pass
    glance = (folder.path / "run.lock").open()  # as `holder` takes it for a moment
    fcntl.flock(glance, fcntl.LOCK_SH)
    timer = threading.Timer(0.05, glance.close)
    timer.start()
    with folder.locked():
        assert holder(folder.path) == os.getpid()
    timer.join()
