"""A checkpoint holds all that the next step depends on, also what no state dict lists, and no pickle."""

from __future__ import annotations

import os
import pickle
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws.small_run import TinyLM, same_bits, small_engine
from torch import Tensor, nn

from torchstone._errors import ModelError, UsageError
from torchstone._files import read_json, write_json
from torchstone._seeds import rng_state
from torchstone.tracking.checkpoint import damage, open_checkpoint, sha256, write_checkpoint
from torchstone.tracking.tensor_file import NotStorable
from torchstone.train.hooks import StepInfo
from torchstone.train.progress import Progress
from torchstone.train.snapshot import restore_snapshot, save_snapshot


class Counting(TinyLM):
    """Its output depends on buffers that its state dict does not list, one of them made late."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(8), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.training:
            if "seen" not in self._buffers:
                self.register_buffer("seen", torch.zeros(()), persistent=False)
            self.seen += 1
            self.scale.mul_(0.9).add_(self.embedding.weight.detach().abs().mean(0), alpha=0.1)
        return super().forward(input_ids) * (1 + self.scale.mean())


def counting() -> Counting:
    torch.manual_seed(3)
    return Counting()


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_unlisted_buffers_survive_a_resume(tmp_path: Path) -> None:
    straight = small_engine(None, module=counting())
    straight.run()
    small_engine(tmp_path, module=counting(), hooks=(StopAt(5),)).run()
    second = Counting()
    small_engine(tmp_path, module=second, resume=True).run()
    assert second.seen == straight.module.seen
    assert torch.equal(second.scale, straight.module.scale)
    assert same_bits(straight.module.state_dict(), second.state_dict())


class Average:
    """What EMA will look like to a snapshot."""

    def __init__(self, value: float) -> None:
        self.shadow = torch.full((3,), value)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "count": 2}

    def load_state_dict(self, state: Any) -> None:
        self.shadow = state["shadow"]


def snapshot(folder: Path, module: nn.Module, **extra: Any) -> Any:
    optimizer = torch.optim.AdamW(module.parameters())
    path = save_snapshot(folder, module, optimizer, Progress(step=1), config_hash="c", model={}, extra=extra)
    return open_checkpoint(path), optimizer


def test_extra_parts_are_kept_under_their_names(tmp_path: Path) -> None:
    module = TinyLM()
    checkpoint, optimizer = snapshot(tmp_path, module, ema=Average(0.5))
    fresh = Average(0.0)
    restore_snapshot(checkpoint, module, optimizer, {"ema": fresh})
    assert fresh.shadow.tolist() == [0.5] * 3
    with pytest.raises(UsageError, match="no state of scaler"):
        restore_snapshot(checkpoint, module, optimizer, {"scaler": fresh})


def test_all_generators_go_on_where_they_were(tmp_path: Path) -> None:
    module = TinyLM()
    random.gauss(0, 1)  # leaves a second value behind
    np.random.standard_normal(3)
    checkpoint, optimizer = snapshot(tmp_path, module)
    drawn = [
        random.gauss(0, 1),
        random.random(),
        np.random.standard_normal(2).tolist(),
        torch.rand(2).tolist(),
    ]
    restore_snapshot(checkpoint, module, optimizer)
    again = [
        random.gauss(0, 1),
        random.random(),
        np.random.standard_normal(2).tolist(),
        torch.rand(2).tolist(),
    ]
    assert drawn == again
    assert {"python", "numpy", "torch"} <= rng_state().keys()


def test_another_model_is_refused_by_the_buffer_it_lacks(tmp_path: Path) -> None:
    outer = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Identity()})
    outer["b"].register_buffer("table", torch.ones(2), persistent=False)
    checkpoint, _ = snapshot(tmp_path, outer)
    other = nn.ModuleDict({"a": nn.Linear(2, 2)})
    with pytest.raises(ModelError, match="no module b"):
        restore_snapshot(checkpoint, other, torch.optim.AdamW(other.parameters()))


def test_a_state_that_no_checkpoint_can_hold_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Odd(TinyLM):
        def get_extra_state(self) -> Any:
            return {"thresholds": {3, 4}}

        def set_extra_state(self, state: Any) -> None: ...

    with pytest.raises(NotStorable, match=r"builtins\.set") as caught:
        small_engine(tmp_path, module=Odd(), hooks=(StopAt(1),)).run()
    assert caught.value.where == "model_extra._extra_state.thresholds"


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    engine = small_engine(tmp_path, loop={"max_steps": 2})
    engine.run()
    files = sorted(path.name for path in (tmp_path / "checkpoints" / "step-2").iterdir())
    assert files == ["manifest.json", "model.safetensors", "state.json", "state.safetensors"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        patch.setattr(torch, "load", refuse)
        assert small_engine(tmp_path, loop={"max_steps": 2}, resume=True).progress.step == 2


def as_older_version_wrote_it(path: Path) -> None:
    """Turn a checkpoint into one of version 0.1.0, with its state in a `state.pt`."""
    manifest = read_json(path / "manifest.json")
    torch.save(open_checkpoint(path).state(), path / "state.pt")
    for name in ("state.json", "state.safetensors"):
        (path / name).unlink()
        del manifest["files"][name]
    size = (path / "state.pt").stat().st_size
    manifest["files"]["state.pt"] = {"bytes": size, "sha256": sha256(path / "state.pt")}
    del manifest["manifest_sha256"], manifest["metrics"]
    write_json(path / "manifest.json", manifest)


def test_checkpoints_of_the_first_version_are_still_read(tmp_path: Path) -> None:
    straight = small_engine(None)
    straight.run()
    small_engine(tmp_path, hooks=(StopAt(7),)).run()
    as_older_version_wrote_it(tmp_path / "checkpoints" / "step-7")
    resumed = small_engine(tmp_path, resume=True)
    assert resumed.progress.step == 7
    resumed.run()
    assert same_bits(straight.module.state_dict(), resumed.module.state_dict())


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-executed"),))


def test_an_old_state_file_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {}, config_hash="c")
    as_older_version_wrote_it(path)
    torch.save({"progress": Payload()}, path / "state.pt")
    manifest = read_json(path / "manifest.json")
    size = (path / "state.pt").stat().st_size
    manifest["files"]["state.pt"] = {"bytes": size, "sha256": sha256(path / "state.pt")}
    write_json(path / "manifest.json", manifest)
    with pytest.raises(pickle.UnpicklingError):
        open_checkpoint(path).state()
    assert not Path("was-executed").exists()


@pytest.mark.parametrize("field", ["step", "config_hash", "model", "tied", "torch"])
def test_an_edited_manifest_is_found(tmp_path: Path, field: str) -> None:
    path = write_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {}, config_hash="c")
    manifest = read_json(path / "manifest.json")
    manifest[field] = 2 if field == "step" else {"w2": "w"} if field == "tied" else "other"
    write_json(path / "manifest.json", manifest)
    assert damage(path) == ["manifest.json has other content than was written"]
    del manifest["manifest_sha256"]
    write_json(path / "manifest.json", manifest)
    assert damage(path)
