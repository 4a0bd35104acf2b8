"""Each kind of job does what the command of its name does; here in this process, on a tiny model."""

from __future__ import annotations

import json
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
    for name, line in (
        ("old", "a cat sat on mat {}."),
        ("new", "two dogs ran round and round the house {}."),
    ):
        rows = (json.dumps({"text": line.format("!" * (number % 5))}) for number in range(100))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    with Store.open() as store:
        yield JobManager(store)


def do(queue: JobManager, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return do_job(queue, queue.submit_job(kind, config))


def do_job(queue: JobManager, job: int) -> dict[str, Any]:
    row = queue.table.job(str(job))
    folder = run_dir_of(row)
    folder.mkdir(parents=True)
    told = work(row.order | {"run_dir": str(folder), "store": queue.store.address, "token": 1})
    assert told["error"] is None and (told["status"], told["exit_code"]) == ("completed", 0), told
    return told["result"]


def test_train_score_export_and_train_again(queue: JobManager, tmp_path: Path) -> None:
    from torchstone.adapt.saved import checkpoint_of
    from torchstone.adapt.target import parse_target

    trained = do(queue, "training", {"target": "zoo:gpt-nano", "data": "old.jsonl", "set": SMALL})
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
    calm = do(queue, "monitoring", {"model": "pets@production", "data": "old.jsonl", "rows": 100})
    assert (calm["drift"]["alarm"], calm["job_id"], calm["status"]) == (False, None, "ok"), calm
    seen = do(queue, "monitoring", {"model": "pets@production", "data": "new.jsonl", "rows": 100})
    assert seen["drift"]["alarm"] and seen["status"] == "fail" and seen["retraining"]["triggered"]
    assert seen["comparison"]["metrics"]["val/loss"]["baseline"] == pytest.approx(scored["metrics"]["loss"])
    assert [each.kind for each in queue.store.events(trained["run_id"])].count("drift") == 2
    again = do(queue, "monitoring", {"model": "pets@production", "data": "new.jsonl", "rows": 100})
    assert again["retraining"]["triggered"] and again["job_id"] is None, "one is waiting already"
    (waiting,) = queue.list_jobs("waiting", "retraining")
    assert waiting.job_id == seen["job_id"]
    told = do_job(queue, waiting.job_id)
    new = registry.find("pets@candidate")
    assert (told["model"], told["parent"], new.parent_model_id) == ("pets@2", "pets@1", old)
    assert new.data != registry.find("pets@1").data, "it was trained on other data"
    loss = told["comparison"]["loss"]
    assert loss["delta"] == pytest.approx(loss["candidate"] - loss["baseline"])
    assert loss["candidate"] == pytest.approx(told["train"]["final"]["val/loss"])
    assert registry.find("pets@production").model_id == old, "nobody promoted it"
    assert "drift: the verdict alarms" in new.metadata["reason"]


def test_the_familiar_keys_of_a_training_job_are_understood(queue: JobManager, tmp_path: Path) -> None:
    config = {
        "model_path": "zoo:gpt-nano", "task_spec": {"task_type": "causal-lm"},
        "training_config": {"learning_rate": 0.01, "batch_size": 2, "max_steps": 7},
    }  # fmt: skip
    order = queue.table.job(str(queue.submit_job("training", config))).order
    told = {key: each["value"] for key, each in order["settings"]["values"].items()}
    assert told["model.target"] == "zoo:gpt-nano" and told["data.task"] == "causal-lm"
    assert (told["optim.learning_rate"], told["train.batch_size"], told["train.max_steps"]) == (0.01, 2, 7)
