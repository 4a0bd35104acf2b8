"""Each kind of job does what the command of its name does; here in this process, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchstone.study.cell_job import work
from torchstone.study.job_queue import JobManager, run_dir_of
from torchstone.tracking.model_registry import ModelRegistry
from torchstone.tracking.register_run import register_checkpoint
from torchstone.tracking.store import Store

SMALL = {
    "data.tokenizer": "bytes", "train.max_steps": 3, "model.d_model": 16, "model.num_layers": 1,
    "model.num_heads": 2, "model.max_seq_len": 32, "tracking.dashboard": False,
}  # fmt: skip


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobManager]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHSTONE_STORE", str(tmp_path / "store.db"))
    (tmp_path / "old.txt").write_text("a cat sat on a mat.\n" * 100)
    (tmp_path / "new.txt").write_text("two dogs ran round the house.\n" * 100)
    with Store.open() as store:
        yield JobManager(store)


def do(queue: JobManager, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    job = queue.submit_job(kind, config)
    row = queue.table.job(str(job))
    folder = run_dir_of(row)
    folder.mkdir(parents=True)
    told = work(row.order | {"run_dir": str(folder), "store": queue.store.address, "token": 1})
    assert told["error"] is None and (told["status"], told["exit_code"]) == ("completed", 0), told
    return told["result"]


def test_train_score_export_and_train_again(queue: JobManager, tmp_path: Path) -> None:
    from torchstone.adapt.saved import checkpoint_of
    from torchstone.adapt.target import parse_target

    trained = do(queue, "training", {"target": "zoo:gpt-nano", "data": "old.txt", "set": SMALL})
    assert (trained["schema"], trained["steps"]) == ("torchstone.train/1", 3)
    home = str(tmp_path / "jobs" / "1")
    assert Path(trained["run_dir"]) == Path(home)
    scored = do(queue, "evaluation", {"target": home})
    assert scored["schema"] == "torchstone.eval/1"
    assert scored["metrics"]["loss"] == pytest.approx(trained["final"]["val/loss"])
    exported = do(queue, "export", {"target": home, "formats": ["safetensors"]})
    assert exported["verdict"] in ("pass", "warn") and (tmp_path / "jobs" / "3" / "bundle").is_dir()

    registry = ModelRegistry(queue.store)
    old = register_checkpoint(registry, checkpoint_of(parse_target(home)), "pets", tags=["production"])
    wish = {"model": "pets@production", "data": "new.txt", "start": "weights", "reason": "drift"}
    told = do(queue, "retraining", wish)
    new = registry.find("pets@candidate")
    assert (told["model"], told["parent"], new.parent_model_id) == ("pets@2", "pets@1", old)
    assert new.data != registry.find("pets@1").data, "it was trained on other data"
    loss = told["comparison"]["loss"]
    assert loss["delta"] == pytest.approx(loss["candidate"] - loss["baseline"])
    assert loss["candidate"] == pytest.approx(told["train"]["final"]["val/loss"])
    assert registry.find("pets@production").model_id == old, "nobody promoted it"
    assert new.metadata["reason"] == "drift"


def test_the_familiar_keys_of_a_training_job_are_understood(queue: JobManager, tmp_path: Path) -> None:
    config = {
        "model_path": "zoo:gpt-nano", "task_spec": {"task_type": "causal-lm"},
        "training_config": {"learning_rate": 0.01, "batch_size": 2, "max_steps": 7},
    }  # fmt: skip
    order = queue.table.job(str(queue.submit_job("training", config))).order
    told = {key: each["value"] for key, each in order["settings"]["values"].items()}
    assert told["model.target"] == "zoo:gpt-nano" and told["data.task"] == "causal-lm"
    assert (told["optim.learning_rate"], told["train.batch_size"], told["train.max_steps"]) == (0.01, 2, 7)
