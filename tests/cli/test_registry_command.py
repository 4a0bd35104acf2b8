"""`torchstone registry`, from a run's checkpoint to its deletion, as its page tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from zoo.documented import schema

from torchstone.tracking.run_folder import RunFolder
from torchstone.tracking.store import Store


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    """What a run leaves, without the training."""
    import torch

    from torchstone.tracking.checkpoint import write_checkpoint

    folder = RunFolder.create(tmp_path / "runs" / "first", name="first")
    model = {"target": "zoo:gpt-nano", "task": "causal-lm"}
    for step, loss in ((1, 2.0), (2, 3.0)):
        write_checkpoint(
            folder.checkpoints, step, {"w": torch.ones(2)}, {}, config_hash="c0ffee", model=model,
            metrics={"val/loss": loss},
        )  # fmt: skip
    (folder.path / "best").write_text("step-1")
    with Store.open(tmp_path / "runs" / "store.db") as store:
        store.start_run(folder.run_id, name="first", kind="train", run_dir=folder.path)
        store.add_event(folder.run_id, "facts", {"data": {"train": "f00d/7"}})
    return folder


def test_a_run_becomes_a_model_that_is_promoted_verified_and_deleted(
    torchstone: Callable[..., Any], trained: RunFolder
) -> None:
    def ask(*arguments: object, code: int = 0) -> dict[str, Any]:
        answer = torchstone("registry", *arguments, "--json")
        assert answer.code == code, answer.err
        name = answer.object["schema"]
        jsonschema.validate(answer.object, schema(name))
        return answer.object

    first = ask("register", "runs/first", "--name", "notes", "--tags", "candidate")["model"]
    told = (first["name"], first["version"], first["task_type"], first["config_hash"], first["metrics"])
    assert told == ("notes", "1", "causal-lm", "c0ffee", {"val/loss": 2.0}), "the best checkpoint's own"
    assert (first["training_run_id"], first["data"]) == (trained.run_id, {"train": "f00d/7"})
    ask("register", trained.checkpoints / "step-2", "--name", "notes", "--parent", "notes@candidate")
    ask("promote", "notes@1", "production")
    assert ask("promote", "notes@2", "production")["model"]["tags"] == ["production"]
    assert ask("show", "notes@1")["model"]["tags"] == ["candidate"]
    assert [each["version"] for each in ask("lineage", "notes@production")["models"]] == ["1", "2"]
    listed = ask("list", "--search", "f00d", "--metric", "val/loss", "--min", "2.5")["models"]
    assert [each["version"] for each in listed] == ["2"]
    rows = ask("compare", "notes@1", "notes@2")["models"]
    assert [row["val/loss"] for row in rows] == [2.0, 3.0]

    assert ask("verify", "notes@2")["verdict"] == "pass"
    with (trained.checkpoints / "step-2" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert ask("verify", "notes@2", code=1)["problems"][0].startswith("checkpoint: model.safetensors has")
    refused = ask("promote", "notes@2", "production", code=1)
    assert "not what was registered" in refused["what"]

    assert torchstone("registry", "delete", "notes@1").code == 2, "only with --yes"
    assert ask("delete", "notes@1", "--yes", code=2)["why"].startswith("a model that is in use")
    assert ask("delete", "notes@1", "--dry-run", "--force")["deleted"] is False
    assert ask("delete", "notes@1", "--yes", "--force")["children"] == [2]
    ask("retire", "notes@2")
    assert ask("list")["models"] == [] and len(ask("list", "--status", "retired")["models"]) == 1
    assert (trained.checkpoints / "step-1").is_dir(), "files stay"


def test_people_are_told_what_they_need(torchstone: Callable[..., Any], trained: RunFolder) -> None:
    assert torchstone("registry", "register", "runs/first", "--name", "notes").code == 0
    table = torchstone("registry", "list").out
    assert "notes@1" in table and trained.run_id in table
    assert "val/loss" in torchstone("registry", "show", "notes").out
    missing = torchstone("registry", "show", "nots")
    assert missing.code == 2 and "did you mean 'notes'" in missing.err
    assert torchstone("registry", "register", "zoo:gpt-nano", "--name", "x").code == 2
    assert torchstone("registry", "list", "--store", "absent.db").code == 2
