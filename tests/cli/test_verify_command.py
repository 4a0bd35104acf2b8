"""`torchstone verify` hashes every file again and believes no name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from zoo.documented import schema

from torchstone.tracking.checkpoint import write_checkpoint
from torchstone.tracking.run_folder import RunFolder

Typed = Callable[..., Any]
FILES = ["model.safetensors", "state.safetensors", "state.json", "manifest.json"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = RunFolder.create(tmp_path / "runs" / "first").path
    for step in (1, 2):
        tensors = {"w": torch.full((40,), float(step))}
        state = {"m": torch.ones(40), "progress": {"step": step}}
        write_checkpoint(folder / "checkpoints", step, tensors, state, config_hash="c")
    (folder / "latest").write_text("step-2\n")
    (folder / "best").write_text("step-1\n")
    return folder


def test_a_sound_run_and_a_sound_checkpoint(torchstone: Typed, run_dir: Path) -> None:
    for target, kind, count in ((run_dir, "run", 2), (run_dir / "checkpoints" / "step-2", "checkpoint", 1)):
        answer = torchstone("verify", target, "--json")
        jsonschema.validate(answer.object, schema("torchstone.verify/1"))
        assert (answer.code, answer.object["verdict"], answer.object["kind"]) == (0, "pass", kind)
        assert (len(answer.object["checkpoints"]), answer.object["newest_good"]) == (count, 2)
    assert "pass" in torchstone("verify", "first").out, "a run is known by its id too"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 0.3, 0.6, 0.999])
def test_every_flipped_byte_is_found(torchstone: Typed, run_dir: Path, name: str, at: float) -> None:
    file = run_dir / "checkpoints" / "step-2" / name
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 4
    file.write_bytes(data)
    answer = torchstone("verify", run_dir, "--json")
    jsonschema.validate(answer.object, schema("torchstone.verify/1"))
    assert (answer.code, answer.object["verdict"], answer.object["newest_good"]) == (1, "fail", 1)
    good, bad = answer.object["checkpoints"]
    assert (good["status"], bad["status"]) == ("pass", "fail")
    assert name in bad["problems"][0]
    assert answer.object["problems"] == ["latest names step-2, which is no good checkpoint"]
    assert (run_dir / "checkpoints" / "step-2").is_dir(), "verify only reads"


def test_files_of_another_checkpoint_are_found(torchstone: Typed, run_dir: Path) -> None:
    first, second = (run_dir / "checkpoints" / f"step-{step}" for step in (1, 2))
    shutil.copy(first / "model.safetensors", second / "model.safetensors")
    answer = torchstone("verify", second)
    assert answer.code == 1
    assert "model.safetensors has other content" in answer.out


def test_a_checkpoint_under_another_name_is_found(torchstone: Typed, run_dir: Path) -> None:
    shutil.copytree(run_dir / "checkpoints" / "step-1", run_dir / "checkpoints" / "step-3")
    answer = torchstone("verify", run_dir, "--json")
    assert answer.code == 1
    assert "step 1" in answer.object["checkpoints"][-1]["problems"][0]


def test_a_run_without_checkpoints_is_no_pass(torchstone: Typed, tmp_path: Path) -> None:
    empty = RunFolder.create(tmp_path / "empty").path
    answer = torchstone("verify", empty, "--json")
    assert (answer.code, answer.object["verdict"]) == (1, "error")


@pytest.mark.parametrize("target", ["nowhere", "zoo:gpt-nano", ".", "file.txt"])
def test_what_is_no_checkpoint_is_refused(torchstone: Typed, tmp_path: Path, target: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    answer = torchstone("verify", target)
    assert answer.code == 2
    assert "no checkpoint and no run" in answer.err
