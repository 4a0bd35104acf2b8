"""Results from checkpoints alone: ours, and files that earlier systems left; nothing in them is run."""

from __future__ import annotations

import datetime
import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from zoo.documented import schema

import torchstone as ts
from torchstone._errors import UntrustedCode
from torchstone.tracking.checkpoint import CheckpointDamaged
from torchstone.train import list_checkpoints, recover_training_results
from torchstone.train.recovery import KEYS, recover

WEIGHTS = {"layer.weight": torch.ones(4, 4), "layer.bias": torch.zeros(4)}


def history(epochs: int, seed: int = 0, validated: bool = True) -> list[dict[str, Any]]:
    """Training loss falls; validation is best at epoch 2."""
    rows = []
    for epoch in range(epochs):
        row = {
            "epoch": epoch,
            "train/loss": 3.0 - 0.1 * epoch + seed,
            "learning_rate": 1e-3,
            "epoch_duration": 7.5,
        }
        if validated:
            row["val/loss"] = 3.0 + 0.01 * (epoch - 2) ** 2 + seed
        rows.append(row)
    return rows


def save_old(
    folder: Path,
    epoch: int,
    rows: list[dict[str, Any]] | None,
    *,
    run: str | None = "first",
    day: int = 1,
    **changes: Any,
) -> Path:
    """A file as v4.0 wrote it; without `run` as v3.x did."""
    folder.mkdir(parents=True, exist_ok=True)
    custom: dict[str, Any] = {"training_config": {"learning_rate": 1e-3}}
    if rows is not None:
        custom["metrics_history"] = rows
    if run is not None:
        custom |= {"workspace_root": str(folder.parent), "run_name": run}
    time = datetime.datetime(2025, 1, day, 12, epoch)
    content = {
        "epoch": epoch,
        "global_step": epoch,
        "model_state_dict": WEIGHTS,
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "scheduler_state_dict": None,
        "metrics": {"val_loss": np.float64(3.0 + epoch), "train_loss": 2.0},
        "monitor": "val_loss",
        "monitor_value": 3.0,
        "rng_state": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        },
        "timestamp": time.isoformat(),
        "git_commit": None,
        "custom_state": custom,
    } | changes
    path = folder / f"checkpoint_epoch{epoch:04d}_step{epoch:06d}_{time:%Y%m%d_%H%M%S}.pt"
    torch.save(content, path)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "session" / "checkpoints"
    for epoch in range(5):
        save_old(folder, epoch, history(epoch + 1))
    return folder


def test_v4_history_is_the_whole_run_and_the_checkpoint_the_best(old: Path) -> None:
    found = recover_training_results(checkpoint_dir=str(old))
    assert tuple(found) == KEYS
    assert found["loss_history"] == [row["train/loss"] for row in history(5)]
    assert found["val_loss_history"] == [row["val/loss"] for row in history(5)]
    assert (found["best_epoch"], found["final_loss"]) == (2, history(5)[-1]["train/loss"])
    assert found["checkpoint_path"].name.startswith("checkpoint_epoch0002")
    assert found["training_time"] == 5 * 7.5
    assert (found["workspace_root"], found["run_name"]) == (old.parent, "first")
    assert len(found["metrics_summary"]) == 5


def test_one_file_of_a_longer_run_does_not_stand_for_all_of_it(old: Path) -> None:
    path = sorted(old.glob("*.pt"))[1]
    found = recover(checkpoint_path=path)
    assert found.checkpoint_path == path
    assert len(found.epochs) == 5
    assert any("goes on" in each for each in found.warnings)
    for other in sorted(old.glob("*.pt"))[2:]:
        other.unlink()
    assert len(recover(checkpoint_path=path).epochs) == 2


def test_the_best_whose_file_is_gone_is_still_the_best_epoch(old: Path) -> None:
    sorted(old.glob("*.pt"))[2].unlink()
    found = recover(checkpoint_dir=old)
    assert found.best_epoch == 2
    assert found.checkpoint_path.name.startswith("checkpoint_epoch0004")
    assert any("not there" in each for each in found.warnings)


def test_another_monitor_and_mode(old: Path) -> None:
    found = recover_training_results(checkpoint_dir=old, monitor="train_loss", mode="max")
    assert found["best_epoch"] == 0
    with pytest.raises(ValueError, match="val_f1"):
        recover_training_results(checkpoint_dir=old, monitor="val_f1")
    with pytest.raises(ValueError, match="mode"):
        recover_training_results(checkpoint_dir=old, mode="lowest")


def test_not_measured_is_not_zero_and_nan_is_never_best(tmp_path: Path) -> None:
    rows = history(3, validated=False)
    save_old(tmp_path, 2, rows, metrics={})
    found = recover(checkpoint_dir=tmp_path)
    assert found.results()["val_loss_history"] == []
    assert found.best_epoch == 2 and any("nothing was validated" in each for each in found.warnings)
    assert list_checkpoints(tmp_path)[0]["val_loss"] is None
    rows = history(3)
    rows[0]["val/loss"] = math.nan
    del rows[1]["val/loss"]
    save_old(tmp_path / "nan", 2, rows)
    assert recover_training_results(checkpoint_dir=tmp_path / "nan")["best_epoch"] == 2


def test_runs_that_share_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for epoch in range(4):
        save_old(tmp_path, epoch, history(epoch + 1, seed=0), run="early", day=1)
    for epoch in range(2):
        save_old(tmp_path, epoch, history(epoch + 1, seed=1), run="late", day=2)
    found = recover(checkpoint_dir=tmp_path)
    assert (found.run_name, len(found.epochs), found.best_epoch) == ("late", 2, 1)
    assert any("early" in each for each in found.warnings)
    early = next(tmp_path.glob("*epoch0003*"))
    assert recover(checkpoint_path=early).run_name == "early"


def test_a_second_run_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    for epoch in range(4):
        save_old(tmp_path, epoch, history(epoch + 1, seed=0), day=1)
    save_old(tmp_path, 0, history(1, seed=5), day=3)
    assert recover(checkpoint_dir=tmp_path).results()["loss_history"] == [8.0]


def test_v3_is_told_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "checkpoints"
    path = save_old(folder, 2, history(3), run=None)
    path = path.rename(folder / "run_20250101_120000_epoch_2.pt")
    found = recover(checkpoint_path=path)
    assert (found.workspace_root, found.run_name) == (tmp_path / "work", "run_20250101_120000")
    assert any("inferred" in each for each in found.warnings)


def test_history_as_columns(tmp_path: Path) -> None:
    save_old(tmp_path, 1, {"epoch": [0, 1], "train/loss": [2.0, 1.0], "val/loss": [2.0]})  # type: ignore[arg-type]
    found = recover_training_results(checkpoint_dir=tmp_path)
    assert (found["loss_history"], found["val_loss_history"]) == ([2.0, 1.0], [2.0])


def test_files_without_a_history(tmp_path: Path) -> None:
    def save(epoch: int) -> Path:
        content = {
            "epoch": epoch,
            "model_state_dict": WEIGHTS,
            "optimizer_state_dict": {},
            "metrics": {"train_loss": 3.0 - epoch, "val_loss": 4.0 - epoch},
            "config": {"lr": 1e-3},
            "timestamp": f"2025-01-01T0{epoch}:00:00",
        }
        torch.save(content, tmp_path / f"epoch_{epoch}.pt")
        return tmp_path / f"epoch_{epoch}.pt"

    only = save(1)
    for arguments in ({"checkpoint_path": only}, {"checkpoint_dir": tmp_path}):
        with pytest.raises(ValueError, match=r"before v4\.0"):
            recover_training_results(**arguments)
    save(2)
    found = recover(checkpoint_dir=tmp_path)
    assert found.results()["val_loss_history"] == [3.0, 2.0]
    assert any("put together" in each for each in found.warnings)


# --- bad files ------------------------------------------------------------------------------------


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_file_that_would_run_code_is_refused_by_the_name_of_what_it_wants(
    tmp_path: Path, torchstone: Callable[..., Any]
) -> None:
    good = save_old(tmp_path, 0, history(1))
    evil = save_old(tmp_path, 1, history(2), metrics={"val_loss": Evil(tmp_path / "mark")})
    with pytest.raises(UntrustedCode, match=r"posix\.system|os\.system") as caught:
        recover_training_results(checkpoint_path=evil)
    assert caught.value.exit_code == 3
    assert [each["filename"] for each in list_checkpoints(tmp_path)] == [good.name]
    found = recover(checkpoint_dir=tmp_path)
    assert found.checkpoint_path == good and any("would run code" in each for each in found.warnings)
    answer = torchstone("recover", evil, "--json")
    assert answer.code == 3 and "system" in answer.object["why"]
    good.unlink()
    assert torchstone("recover", tmp_path).code == 3
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("hurt", ["cut", "zeros", "text", "empty"])
def test_a_damaged_file_gets_advice(old: Path, hurt: str, legacy: bool) -> None:
    path = sorted(old.glob("*.pt"))[4]
    if legacy:
        content = torch.load(path, weights_only=False)
        torch.save(content, path, _use_new_zipfile_serialization=False)
        assert recover(checkpoint_path=path).best_epoch == 2
    data = path.read_bytes()
    told = {"cut": data[: len(data) // 2], "zeros": bytes(len(data)), "text": b"hello", "empty": b""}
    path.write_bytes(told[hurt])
    with pytest.raises(CheckpointDamaged) as caught:
        recover_training_results(checkpoint_path=path)
    assert "checkpoint_epoch0003" in caught.value.next
    assert len(list_checkpoints(old)) == 4
    found = recover(checkpoint_dir=old)
    assert len(found.epochs) == 4 and any(path.name in each for each in found.warnings)


def test_nothing_there(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "nowhere") == []
    with pytest.raises(FileNotFoundError):
        recover_training_results(checkpoint_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        recover_training_results(checkpoint_path=tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError):
        recover_training_results(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="either"):
        recover_training_results()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc to count what is read")
def test_listing_reads_no_weights(tmp_path: Path) -> None:
    save_old(tmp_path, 0, history(1), model_state_dict={"w": torch.zeros(16 << 20)})

    def bytes_read() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    list_checkpoints(tmp_path)
    before = bytes_read()
    assert len(list_checkpoints(tmp_path)) == 1
    assert bytes_read() - before < 1 << 20


# --- our own --------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    config = ts.TrainingConfig(
        epochs=3,
        batch_size=2,
        learning_rate=0.01,
        checkpoint_dir=str(tmp_path / "runs" / "one"),
        random_seed=1,
    )
    module = torch.nn.Sequential(torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11))
    data = [torch.randint(11, (6,), generator=torch.Generator().manual_seed(each)) for each in range(8)]
    trainer = ts.Trainer(module, config, task=ts.TaskSpec.language_modeling(vocab_size=11))
    return trainer.train(data, data[:3])


def test_a_run_of_ours_tells_what_its_training_told(trained: Any, torchstone: Callable[..., Any]) -> None:
    found = recover_training_results(checkpoint_dir=trained.run_dir)
    assert json.dumps(found["metrics_summary"].to_dict("records")) == json.dumps(
        trained["metrics_summary"].to_dict("records")
    )
    for name in ("best_epoch", "final_loss", "loss_history", "val_loss_history", "run_name"):
        assert found[name] == trained[name], name
    assert found["checkpoint_path"].resolve() == Path(trained["checkpoint_path"]).resolve()
    assert 0 < found["training_time"] <= trained["training_time"]
    answer = torchstone("recover", trained.run_dir, "--json")
    jsonschema.validate(answer.object, schema("torchstone.recover/1"))
    assert answer.object["val_loss_history"] == trained["val_loss_history"]
    assert "best epoch" in torchstone("recover", trained.run_dir).out


def test_a_damaged_checkpoint_of_ours_gets_advice(trained: Any) -> None:
    checkpoints = Path(trained.run_dir) / "checkpoints"
    newest, other = sorted(checkpoints.glob("step-*"), key=lambda path: -int(path.name[5:]))[:2]
    weights = newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointDamaged) as caught:
        recover_training_results(checkpoint_path=newest)
    assert str(other) in caught.value.next
    found = recover(checkpoint_dir=trained.run_dir)
    assert found.checkpoint_path != newest and len(found.epochs) == 3
    weights.write_bytes(data[:-9])
    assert newest.name not in {each["filename"] for each in list_checkpoints(trained.run_dir)}
