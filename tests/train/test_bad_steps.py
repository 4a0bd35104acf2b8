"""A step that is not finite: never applied, its module named, kept, taken again; what each policy does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor, nn
from zoo.documented import schema

import torchstone as ts
from torchstone.tracking.checkpoint import newest_good
from torchstone.tracking.store import Store
from torchstone.train.incident import replay
from torchstone.train.nonfinite import NonFinite

VOCABULARY = 19
POISON = 18
"""The id on which the model breaks."""


class Breaks(nn.Module):
    """NaN for inputs that hold POISON: forward, or only in the gradient of the same place."""

    def __init__(self, backward: bool) -> None:
        super().__init__()
        self.backward = backward

    def forward(self, x: Tensor, poisoned: Tensor) -> Tensor:
        if not bool(poisoned.any()):
            return x
        if self.backward:  # sqrt(0) is finite, its slope is not
            return x + (x - x.detach()).abs().sqrt() * 0.0
        return x / torch.zeros(())


class Model(nn.Module):
    def __init__(self, backward: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.drop = nn.Dropout(0.1)
        self.break_here = Breaks(backward)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.drop(self.embed(input_ids))
        return self.head(self.break_here(x, input_ids == POISON))


def rows(number: int, poisoned: tuple[int, ...] = ()) -> list[Tensor]:
    made = [(torch.arange(6) + row) % POISON for row in range(number)]
    for row in poisoned:
        made[row][2] = POISON
    return made


def train(tmp_path: Path, data: list[Tensor], backward: bool = False, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "learning_rate": 0.02, "epochs": 1, "batch_size": 2, "dashboard": False, "checkpoint_every": 3,
        "checkpoint_dir": str(tmp_path / "run"),
    }  # fmt: skip
    settings |= changes
    trainer = ts.Trainer(
        Model(backward),
        ts.TrainingConfig(**settings),
        task=ts.TaskSpec.language_modeling(VOCABULARY),
        device="cpu",
    )
    return trainer, trainer.train(data)


@pytest.mark.parametrize("backward", [False, True])
def test_stop_names_the_module_and_the_incident_repeats_it(tmp_path: Path, backward: bool) -> None:
    with pytest.raises(NonFinite) as caught:
        train(tmp_path, rows(20, poisoned=(7,)), backward)
    assert "break_here" in caught.value.where
    (folder,) = (tmp_path / "run" / "incidents").iterdir()
    step = json.loads((folder / "incident.json").read_text())["step"]
    assert f"step {step}," in caught.value.where
    kept = newest_good(tmp_path / "run" / "checkpoints")
    assert step == 1 or (kept is not None and kept.step == step - 1), "the state before the bad step"

    found = replay(folder, module=Model(backward))
    assert found.reproduced and found.module == "break_here"
    assert found.direction == ("backward" if backward else "forward")


def test_an_incident_that_is_finite_elsewhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(NonFinite):
        train(tmp_path, rows(6, poisoned=(0, 1, 2, 3, 4, 5)))
    (folder,) = (tmp_path / "run" / "incidents").iterdir()
    sound = Model()
    sound.break_here.forward = lambda x, poisoned: x  # type: ignore[method-assign]
    assert not replay(folder, module=sound).reproduced


def test_skip_goes_on_and_counts(tmp_path: Path) -> None:
    trainer, result = train(tmp_path, rows(20, poisoned=(7,)), on_nonfinite="skip")
    assert result.status == "completed" and result.steps == 10
    assert all(bool(torch.isfinite(each).all()) for each in trainer.model.parameters())
    with Store.open(tmp_path / "store.db") as store:
        refused = store.metrics(result.run_id, "train/refused_steps")
        losses = store.metrics(result.run_id, "train/loss")
    assert [row.value for row in refused] == [1.0]
    assert len(losses) == 9 and refused[0].step not in {row.step for row in losses}


def test_a_skipped_step_leaves_weights_and_optimizer_alone(tmp_path: Path) -> None:
    """As if the poisoned batch had not been there: everything else equal, bit for bit."""

    class NoDropout(Model):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Identity()

    def weights(name: str, data: list[Tensor], **changes: Any) -> list[Tensor]:
        torch.manual_seed(0)
        settings = ts.TrainingConfig(
            learning_rate=0.02, epochs=1, batch_size=2, schedule="constant", warmup_ratio=0.0,
            dashboard=False, checkpoint_dir=str(tmp_path / name), **changes,
        )  # fmt: skip
        trainer = ts.Trainer(
            NoDropout(), settings, task=ts.TaskSpec.language_modeling(VOCABULARY), device="cpu"
        )
        trainer.train(torch.utils.data.DataLoader(data, batch_size=2))
        return [each.detach().clone() for each in trainer.model.parameters()]

    sound = rows(8)
    with_poison = [*sound[:4], *rows(2, poisoned=(0, 1)), *sound[4:]]
    skipped, clean = weights("a", with_poison, on_nonfinite="skip"), weights("b", sound)
    assert all(torch.equal(one, other) for one, other in zip(skipped, clean, strict=True))


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match="in a row"):
        train(tmp_path, rows(12, poisoned=tuple(range(12))), on_nonfinite="skip", max_nonfinite=2)
    assert len(list((tmp_path / "run" / "incidents").iterdir())) == 2


def test_rollback_returns_to_the_newest_checkpoint(tmp_path: Path) -> None:
    data = torch.utils.data.DataLoader([*rows(10), *rows(2, poisoned=(0, 1))], batch_size=2)
    trainer, result = train(tmp_path, data, on_nonfinite="rollback", keep_last=9)
    assert result.status == "completed" and result.steps == 6
    kept = {each.name for each in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"step-3", "step-6"} <= kept
    third = newest_good(tmp_path / "run" / "checkpoints")
    assert third is not None
    from torchstone.tracking.checkpoint import open_checkpoint

    then = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-3").tensors()
    now = trainer.model.state_dict()
    assert all(torch.equal(then[name], now[name]) for name in then)


def test_rollback_without_a_checkpoint_stops(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match="no checkpoint yet"):
        train(tmp_path, rows(4, poisoned=(0, 1, 2, 3)), on_nonfinite="rollback")


def test_replay_from_the_command_line(tmp_path: Path) -> None:
    """The model is found through the run's own record."""
    code = (
        "import torch\nfrom torch import nn\n"
        "class Bad(nn.Module):\n"
        "    def __init__(self, vocab_size=19):\n"
        "        super().__init__()\n"
        "        self.embed = nn.Embedding(vocab_size, 8)\n"
        "        self.inner = nn.Linear(8, 8)\n"
        "        self.head = nn.Linear(8, vocab_size)\n"
        "    def forward(self, input_ids):\n"
        "        x = self.inner(self.embed(input_ids))\n"
        "        return self.head(x)\n"
    )
    (tmp_path / "model.py").write_text(code)
    loaded = ts.load(tmp_path / "model.py")
    with torch.no_grad():
        loaded.module.inner.bias[0] = float("inf")
    settings = ts.TrainingConfig(epochs=1, checkpoint_dir=str(tmp_path / "run"), dashboard=False)
    with pytest.raises(NonFinite):
        ts.Trainer(loaded, settings, task=ts.TaskSpec.language_modeling(19), device="cpu").train(rows(4))
    (folder,) = (tmp_path / "run" / "incidents").iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "torchstone", "train", "--replay", str(folder), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    jsonschema.validate(shown, schema("torchstone.replay/1"))
    assert shown["module"] == "inner" and shown["reproduced"]
