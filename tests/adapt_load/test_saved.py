"""A model that was trained here comes back from its run or checkpoint, with its weights and no more trust."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchstone._errors import ConfigError, ModelError, UntrustedCode, UsageError
from torchstone.adapt.load import LoadedModel, load
from torchstone.tracking.checkpoint import CheckpointDamaged, write_checkpoint

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(SOURCE)
    return load(tmp_path / "code", overrides={"width": 3}, seed=7)


def save(run: Path, model: LoadedModel, step: int, **changes: object) -> Path:
    record = {"target": model.target, "overrides": {"width": 3}, "fingerprint": model.fingerprint} | changes
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    return write_checkpoint(
        run / "checkpoints",
        step,
        model.module.state_dict(),
        {"model_extra": {}},
        config_hash="0",
        model=record,
    )


def test_a_checkpoint_comes_back_with_its_weights(model: LoadedModel, tmp_path: Path):
    again = load(save(tmp_path / "run", model, 5))
    assert again.class_name == "Net"
    assert torch.equal(again.module.linear.weight, model.module.linear.weight)
    assert "step-5" in again.notes[0]


def test_a_run_gives_its_best_else_its_newest_good(model: LoadedModel, tmp_path: Path):
    run = tmp_path / "run"
    for step in (1, 2, 3):
        torch.nn.init.constant_(model.module.linear.weight, float(step))
        last = save(run, model, step)
    assert load(run).module.linear.weight[0, 0] == 3
    (run / "best").write_text("step-1\n")
    assert load(run).module.linear.weight[0, 0] == 1
    (run / "best").unlink()
    (last / "model.safetensors").write_bytes(b"broken")
    assert load(run).module.linear.weight[0, 0] == 2
    assert last.is_dir()
    with pytest.raises(CheckpointDamaged):
        load(last)


def test_changed_code_is_told_and_misfitting_weights_are_refused(model: LoadedModel, tmp_path: Path):
    saved = save(tmp_path / "run", model, 1)
    source = tmp_path / "code" / "model.py"
    source.write_text(SOURCE + "# changed\n")
    assert any("changed since" in note for note in load(saved).notes)
    source.write_text(SOURCE.replace("width, 2", "width, 9"))
    with pytest.raises(ModelError, match="do not fit"):
        load(saved)


def test_weights_of_a_stranger_s_code_are_trusted_no_more(model: LoadedModel, tmp_path: Path):
    saved = save(tmp_path / "run", model, 1, target="gist:deadbeefdeadbeef")
    with pytest.raises(UntrustedCode):
        load(saved)
    with pytest.raises(UntrustedCode):
        load(save(tmp_path / "run", model, 2), trust=False)


def test_what_cannot_be_rebuilt_says_why(model: LoadedModel, tmp_path: Path):
    with pytest.raises(ModelError, match="does not say which model"):
        load(save(tmp_path / "run", model, 1, target=None))
    with pytest.raises(ConfigError, match="cannot be overridden"):
        load(save(tmp_path / "run", model, 2), overrides={"width": 4})
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="no checkpoint"):
        load(tmp_path / "empty")
