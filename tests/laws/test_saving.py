"""Saving beside the training gives the bytes that saving in between gives, and loses no failure."""

from __future__ import annotations

import copy
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.small_run import TinyLM, same_bits, small_engine
from laws.test_snapshot_state import Average, Counting, StopAt
from torch import nn

from torchstone._files import read_json
from torchstone._seeds import seed_everything
from torchstone.optim.registry import OPTIMIZERS
from torchstone.tracking.checkpoint import open_checkpoint, steps_of
from torchstone.train.hooks import CheckpointInfo, StepInfo
from torchstone.train.progress import Progress
from torchstone.train.retention import pointed
from torchstone.train.saving import CheckpointFailed, Keeping, Saver
from torchstone.train.snapshot import private_copy, take_snapshot

AtStep = dict[int, str]


def trained(module: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    module(torch.arange(12).reshape(2, 6)).logsumexp(-1).sum().backward()
    optimizer.step()
    return optimizer


def keeping(run_dir: Path, **changes: Any) -> Keeping:
    return Keeping(**{"run_dir": run_dir, "config_hash": "c", "model": {}, **changes})


def digests(path: Path) -> dict[str, str]:
    return {name: file["sha256"] for name, file in read_json(path / "manifest.json")["files"].items()}


def test_asynchronous_equals_synchronous_while_the_model_trains_on(tmp_path: Path) -> None:
    seed_everything(1)
    module, average = Counting(), Average(0.5)
    optimizer, progress = trained(module), Progress(step=3, epochs=[{"epoch": 0}])
    Saver(keeping(tmp_path / "sync", async_save=False, extra={"ema": average})).save(
        module, optimizer, progress
    )

    go_on = threading.Event()
    saver = Saver(keeping(tmp_path / "async", async_save=True, extra={"ema": average}), go_on.wait)
    saver.save(module, optimizer, progress)
    # The thread waits at its first act; all that it will write changes under its hands.
    with torch.no_grad():
        moments = [each for state in optimizer.state.values() for each in state.values()]
        for tensor in (*module.parameters(), *module.buffers(), *moments, average.shadow):
            tensor.add_(1)
    progress.step, progress.epochs[0]["epoch"] = 4, 9
    optimizer.param_groups[0]["lr"] = 0.5
    torch.rand(3)
    go_on.set()
    saver.wait()
    assert digests(tmp_path / "sync/checkpoints/step-3") == digests(tmp_path / "async/checkpoints/step-3")


def test_a_copy_shares_what_was_shared_and_nothing_else() -> None:
    module = TinyLM()
    optimizer = trained(module)
    snapshot = private_copy(take_snapshot(module, optimizer, Progress(), {"ema": _Same(module)}))
    tensors, shadow = snapshot.tensors, snapshot.state["extra"]["ema"]
    assert tensors["head.weight"] is tensors["embedding.weight"] is shadow["head.weight"]
    assert tensors["head.weight"].data_ptr() != module.head.weight.data_ptr()


class _Same:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state_dict(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state: Any) -> None:
        raise NotImplementedError


def test_one_save_at_a_time_and_each_step_once(tmp_path: Path) -> None:
    module = TinyLM()
    optimizer = trained(module)
    events: list[str] = []
    first_may_end = threading.Event()

    def flush() -> None:
        events.append("write")
        first_may_end.wait()

    saver = Saver(keeping(tmp_path, async_save=True), flush)
    saver.save(module, optimizer, Progress(step=1))
    assert list(saver.collect()) == []
    waiting = threading.Thread(target=lambda: saver.save(module, optimizer, Progress(step=2)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive() and events == ["write"], "the second save did not wait for the first"
    first_may_end.set()
    waiting.join()
    saver.save(module, optimizer, Progress(step=2))
    saver.wait()
    assert [info.step for info in saver.collect()] == [1, 2]
    assert events == ["write", "write"]


@pytest.mark.parametrize("aside", [False, True])
def test_a_whole_run_is_the_same_either_way(tmp_path: Path, aside: bool) -> None:
    heard: list[CheckpointInfo] = []

    class Listen:
        def on_checkpoint(self, info: CheckpointInfo) -> None:
            assert threading.current_thread() is threading.main_thread()
            assert info.path.is_dir()
            heard.append(info)

    straight = small_engine(None)
    straight.run()
    loop = {"checkpoint_every": 1, "keep_last": 30, "async_save": aside}
    engine = small_engine(tmp_path, loop=loop, hooks=(Listen(), StopAt(7)))
    assert engine.run().exit_code == 143
    assert [info.step for info in heard] == list(range(1, 8))
    resumed = small_engine(tmp_path, loop=loop, resume=True, hooks=(Listen(),))
    resumed.run()
    assert [info.step for info in heard] == list(range(1, 19))
    assert same_bits(straight.module.state_dict(), resumed.module.state_dict())
    assert pointed(tmp_path, "latest") == "step-18"
    assert pointed(tmp_path, "best") == f"step-{straight.progress.best_step}"
    assert engine.latest is not None and engine.latest.name == "step-7"


@pytest.mark.parametrize("aside", [False, True])
def test_rows_are_durable_before_the_checkpoint_is_visible(tmp_path: Path, aside: bool) -> None:
    logged: list[int] = []
    durable: set[int] = set()
    engine = small_engine(tmp_path, loop={"checkpoint_every": 1, "async_save": aside})

    def flush() -> None:
        reached = list(logged)  # training goes on meanwhile
        for step in steps_of(tmp_path / "checkpoints"):
            assert step in durable
        durable.update(reached)

    assert engine.saver is not None
    engine.log_row = lambda step, values: logged.append(step)
    engine.saver._flush_rows = flush
    engine.run()
    assert durable == set(range(1, 19))


class FailingDisk:
    """The n-th fsync of a run fails once."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.left, self.fsync = at, os.fsync
        patch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.EIO, "injected")
        self.fsync(descriptor)


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("save", [2, 6])
def test_a_failed_save_ends_the_run_at_the_next_boundary(tmp_path: Path, aside: bool, save: int) -> None:
    steps: list[int] = []

    class Listen:
        def on_step(self, info: StepInfo) -> None:
            steps.append(info.step)

    # The last save fails too: nothing comes after it that could notice by chance.
    loop = {"checkpoint_every": 3, "async_save": aside, "eval_every": 100}
    engine = small_engine(tmp_path, loop=loop, hooks=(Listen(),))
    assert engine.saver is not None
    count = 0

    with pytest.MonkeyPatch.context() as patch:

        def flush() -> None:
            nonlocal count
            count += 1
            if count == save:
                FailingDisk(patch, at=2)

        engine.saver._flush_rows = flush
        with pytest.raises(CheckpointFailed, match=f"step {3 * save}") as caught:
            engine.run()
    assert caught.value.exit_code == 75
    # A thread fails when it fails; the save after it waits for it at the latest.
    assert 3 * save <= steps[-1] <= min(3 * save + (3 if aside else 0), 18)
    assert steps_of(tmp_path / "checkpoints")[-1] == 3 * save - 3
    assert pointed(tmp_path, "latest") == f"step-{3 * save - 3}"
    assert small_engine(tmp_path, resume=True).progress.step == 3 * save - 3


def test_a_failed_save_does_not_hide_why_the_run_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy:
        def on_step(self, info: StepInfo) -> None:
            if info.step == 2:
                broken.set()
                raise LookupError("a hook that fails")

    broken = threading.Event()
    engine = small_engine(tmp_path, loop={"checkpoint_every": 1, "async_save": True}, hooks=(Clumsy(),))
    assert engine.saver is not None

    def flush() -> None:
        broken.wait()
        raise OSError(errno.EIO, "injected")

    engine.saver._flush_rows = flush
    with pytest.raises(LookupError):
        engine.run()
    assert "checkpoint was not saved" in caplog.text


def test_pointers_left_behind_by_a_kill_are_mended(tmp_path: Path) -> None:
    small_engine(tmp_path, loop={"checkpoint_every": 6}, hooks=(StopAt(13),)).run()
    best = pointed(tmp_path, "best")
    (tmp_path / "best").write_text("step-1\n")
    (tmp_path / "latest").unlink()
    engine = small_engine(tmp_path, loop={"checkpoint_every": 6}, resume=True)
    assert engine.saver is not None
    engine.saver.begin(engine.module, engine.optimizer, engine.pace, engine.progress)
    assert (pointed(tmp_path, "best"), pointed(tmp_path, "latest")) == (best, "step-13")


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_the_forecast_knows_the_state_an_optimizer_will_have(name: str) -> None:
    from torchstone.optim.config import OptimConfig
    from torchstone.optim.registry import build_optimizer
    from torchstone.train.space import checkpoint_bytes, state_after_a_step

    module = TinyLM()
    optimizer = build_optimizer(module, OptimConfig(name=name))
    before, own = copy.deepcopy(module.state_dict()), copy.deepcopy(dict(optimizer.state))
    generator = torch.get_rng_state()
    foreseen, whole = state_after_a_step(optimizer), checkpoint_bytes(module, optimizer)
    assert same_bits(before, module.state_dict()) and str(dict(optimizer.state)) == str(own)
    assert torch.equal(generator, torch.get_rng_state())
    module(torch.arange(12).reshape(2, 6)).logsumexp(-1).sum().backward()
    optimizer.step()
    real = sum(
        each.nbytes for state in optimizer.state.values() for each in state.values() if torch.is_tensor(each)
    )
    assert foreseen == real
    assert checkpoint_bytes(module, optimizer) == whole


def test_a_checkpoint_is_no_larger_than_foreseen(tmp_path: Path) -> None:
    module = TinyLM()
    optimizer = trained(module)
    saver = Saver(keeping(tmp_path))
    engine = small_engine(None)
    saver.begin(module, optimizer, engine.pace, Progress())
    saver.save(module, optimizer, Progress(step=1))
    files = list(open_checkpoint(tmp_path / "checkpoints/step-1").path.iterdir())
    assert sum(file.stat().st_size for file in files) <= saver._size
