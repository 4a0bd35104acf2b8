"""What the walls hold back when the watchman is not asked: native code from inside a worker started alone.

Which walls stand depends on the machine. Each test asserts what the worker itself said that it held.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from torchstone._errors import ModelError
from torchstone.adapt.isolate import IsolatedResult, Limits, PreloadedWorkers, run_isolated

LANDLOCK = "fence around files"
VIEW = "only Python and its folder are visible, all but the folder read-only"
NO_NETWORK = "no network (network namespace)"


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> IsolatedResult:
    """The answers of native code in a worker that was started alone, the way the product does it."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("canary-93f1")
    private = tmp_path_factory.mktemp("private")
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = {
            "port": server.getsockname()[1],
            "secret": str(outside / "secret.txt"),
            "outside": str(outside / "canary"),
            "parent": os.getpid(),
            "folder": str(private),
        }
        result = run_isolated("native_jobs:probe", told, private, Limits(wall_s=60))
    assert not (outside / "canary").exists() or VIEW not in result.held
    return result


def test_protections_are_either_held_or_missing_and_never_both(inside: IsolatedResult):
    assert inside.held
    assert not set(inside.held) & {each.partition(" (")[0] for each in inside.missing}
    named = " ".join((*inside.held, *inside.missing))
    for wall in ("network", "namespace", "memory limit", "process limit", "capabilities", "Landlock"):
        assert wall in named


@pytest.mark.parametrize(
    "step", ["read secret", "read shadow", "write outside", "write /tmp", "write library"]
)
def test_the_file_system_view_hides_and_refuses(inside: IsolatedResult, step: str):
    if VIEW not in inside.held and not any(each.startswith(LANDLOCK) for each in inside.held):
        pytest.skip(f"neither a file system view nor Landlock on this machine: {inside.missing}")
    assert inside.value[step] in ("ENOENT", "EROFS", "EACCES", "EPERM")


def test_there_is_nobody_to_talk_to(inside: IsolatedResult):
    if NO_NETWORK not in inside.held and not any("TCP" in each for each in inside.held):
        pytest.skip(f"no network namespace on this machine: {inside.missing}")
    assert inside.value["connect"] in ("ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH", "EACCES")


def test_other_processes_are_out_of_reach(inside: IsolatedResult):
    if "process namespace" not in inside.held:
        pytest.skip(f"no process namespace on this machine: {inside.missing}")
    assert inside.value["signal parent"] in ("ESRCH", "EPERM")
    assert inside.value["trace"] in ("ESRCH", "EPERM")


@pytest.mark.parametrize("step", ["become root", "mount", "unmount"])
def test_rights_cannot_be_won_back(inside: IsolatedResult, step: str):
    if "no capabilities" not in inside.held:
        pytest.skip(f"capabilities could not be dropped: {inside.missing}")
    if step == "become root" and inside.value["user"] == 0:
        pytest.skip(f"it had to stay root, though without capabilities: {inside.missing}")
    assert inside.value[step] in ("EPERM", "EINVAL", "EACCES")


def test_no_capability_is_left_and_none_can_be_gained(inside: IsolatedResult):
    status = inside.value["status"]
    if "no capabilities" in inside.held:
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if "no new privileges" in inside.held:
        assert status["NoNewPrivs"].strip() == "1"
    assert "no new privileges" in inside.held


def test_the_environment_is_clean(inside: IsolatedResult):
    assert not {
        name for name in inside.value["names"] if "KEY" in name or "TOKEN" in name or "SECRET" in name
    }
    assert len(inside.value["names"]) <= 12
    assert inside.value["home"] != str(Path.home())


def test_a_fork_bomb_in_native_code_stops_at_the_limit(
    inside: IsolatedResult, workers: PreloadedWorkers, tmp_path: Path
):
    limits = Limits(wall_s=30, processes=24)
    try:
        result = run_isolated("native_jobs:bomb", {}, tmp_path, limits, workers=workers)
    except ModelError as ended:
        # Root in a container is exempt from the kernel's limit, and is counted from outside.
        assert "process limit" not in inside.held
        assert "more than 24 processes" in ended.what
        return
    assert result.value["children"] < 24
    assert result.value["error"] == "EAGAIN"


def test_a_daemon_ends_with_its_worker(workers: PreloadedWorkers, tmp_path: Path):
    before = psutil.Process().children(recursive=True)
    run_isolated("native_jobs:leave_a_daemon", {}, tmp_path, Limits(wall_s=30), workers=workers)
    new = [each for each in psutil.Process().children(recursive=True) if each not in before]
    assert not psutil.wait_procs(new, timeout=5)[1]
