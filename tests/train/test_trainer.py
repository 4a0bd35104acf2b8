"""`Trainer`: real runs from Python objects, their results, their refusals."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import torchstone as ts
from torchstone._errors import ConfigError, DataError, ModelError, OutOfMemory, UsageError
from torchstone._files import read_json
from torchstone.tracking.store import Store
from torchstone.train.hooks import StepInfo
from torchstone.train.nonfinite import NonFinite
from torchstone.train.result import Stopped, TrainResult

VOCABULARY = 19


class Model(nn.Module):
    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.mix = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(self.drop(x + torch.tanh(self.mix(x.cumsum(1)))))


def sequences(number: int, length: int = 8, seed: int = 0) -> list[Tensor]:
    first = torch.randint(VOCABULARY, (number, 1), generator=torch.Generator().manual_seed(seed))
    return list((first + 5 * torch.arange(length)) % VOCABULARY)


def config(tmp_path: Path, **changes: Any) -> ts.TrainingConfig:
    defaults = {
        "learning_rate": 0.02,
        "epochs": 3,
        "checkpoint_dir": str(tmp_path / "run"),
        "dashboard": False,
    }
    return ts.TrainingConfig(**{**defaults, **changes})


def trainer(tmp_path: Path, hooks: Any = None, **changes: Any) -> ts.Trainer:
    torch.manual_seed(3)
    return ts.Trainer(Model(), config(tmp_path, **changes), task="causal-lm", hooks=hooks, device="cpu")


SUMMARY = [
    "epoch", "train/loss", "train/perplexity", "train/accuracy", "val/loss", "val/perplexity", "val/accuracy",
    "learning_rate", "gradient_norm", "epoch_duration",
]  # fmt: skip
"""Columns that users of older trainers look for."""


def test_learns_and_says_so_in_every_form(tmp_path: Path) -> None:
    result = trainer(tmp_path, epochs=6).train(sequences(24), sequences(6, seed=1))
    assert result.status == "completed" and result.exit_code == 0
    assert result.steps == 36 and result.tokens == 6 * 24 * 7
    history = result["val_loss_history"]
    assert len(history) == 6 and history[-1] < 0.5 * history[0]
    assert result["loss_history"] == [row["train/loss"] for row in result.epochs]
    assert result["best_epoch"] == history.index(min(history))
    assert result["final_loss"] == result["loss_history"][-1]
    assert result["checkpoint_path"].is_dir()
    assert result["workspace_root"] == tmp_path / "run"
    assert result["training_time"] == result.seconds > 0
    summary = result["metrics_summary"]
    assert len(summary) == 6
    assert set(SUMMARY) <= set(summary.columns) and summary[SUMMARY].notna().all(axis=None)
    assert result.final["val/loss"] == history[-1]
    row = result.epochs[0]
    assert row["val/perplexity"] == pytest.approx(math.exp(row["val/loss"]))
    assert 0 <= row["val/accuracy"] <= 1 and row["gradient_norm"] > 0

    shown = result.to_dict()
    assert shown["schema"] == "torchstone.train/1"
    assert {
        "run_id",
        "run_dir",
        "status",
        "steps",
        "tokens",
        "final",
        "best",
        "resumed_from",
        "seconds",
    } <= set(shown)
    assert shown["best"]["checkpoint"] == str(result["checkpoint_path"])
    assert TrainResult.from_dict(read_json(tmp_path / "run" / "report.json")) == result


def test_run_folder_and_store(tmp_path: Path) -> None:
    result = trainer(tmp_path, dashboard=True).train(sequences(10), sequences(4, seed=1))
    run_dir = tmp_path / "run"
    assert (run_dir / "latest").read_text().strip() == f"step-{result.steps}"
    assert (run_dir / "best").read_text().strip() == f"step-{result.best['step']}"
    assert read_json(run_dir / "config.json")["values"]["optim.learning_rate"]["value"] == 0.02
    assert (run_dir / "environment.json").is_file()
    assert (run_dir / "dashboard.html").is_file() and result.warnings == []
    with Store.open(tmp_path / "store.db") as store:
        assert store.run(result.run_id).status == "completed"
        losses = store.metrics(result.run_id, "train/loss")
        assert [row.step for row in losses] == list(range(1, result.steps + 1))
        keys = {row.key for row in store.metrics(result.run_id)}
    assert keys == {
        "train/loss",
        "train/learning_rate",
        "train/accuracy",
        "train/grad_norm",
        "train/grad_norm_clipped",
        "train/tokens_per_s",
        "val/loss",
        "val/accuracy",
    }


def test_without_validation_nothing_is_taken_away_or_made_up(tmp_path: Path) -> None:
    result = trainer(tmp_path, epochs=1).train(sequences(10))
    assert result.tokens == 10 * 7
    assert result.final["val/loss"] is None and result["val_loss_history"] == []
    assert result.best == {"step": None, "val/loss": None, "checkpoint": None}
    assert any("no validation data" in each for each in result.warnings)
    assert result["checkpoint_path"] == tmp_path / "run" / "checkpoints" / "step-3"
    with Store.open(tmp_path / "store.db") as store:
        assert store.metrics(result.run_id, "val/loss") == []


class Stop:
    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), self.number)


class Pairs(Dataset[dict[str, Tensor]]):
    def __init__(self, rows: list[Tensor]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index]}


def as_loader(rows: list[Tensor]) -> DataLoader[Any]:
    return DataLoader(Pairs(rows), batch_size=4, shuffle=True)


@pytest.mark.parametrize("form", [list, Pairs, as_loader])
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, form: Any, cut: int) -> None:
    rows, held_out = sequences(12), sequences(4, seed=1)
    straight = trainer(tmp_path / "straight")
    whole = straight.train(form(rows), held_out)

    with pytest.raises(Stopped) as stopped:
        trainer(tmp_path, hooks=Stop(cut)).train(form(rows), held_out)
    assert stopped.value.exit_code == 143 and stopped.value.result.status == "interrupted"
    again = trainer(tmp_path)
    result = again.train(form(rows), held_out, resume="auto")
    assert result.resumed_from is not None and result.resumed_from.endswith(f"step-{cut}")
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name

    assert untimed_rows(tmp_path, result.run_id) == untimed_rows(tmp_path / "straight", whole.run_id)
    assert result["val_loss_history"] == whole["val_loss_history"]


class Die:
    """The end without a word, at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_outright_the_store_holds_each_row_once(tmp_path: Path) -> None:
    rows, held_out = sequences(16), sequences(4, seed=1)
    straight = trainer(tmp_path / "straight", checkpoint_every=2)
    whole = straight.train(rows, held_out)
    for step in (2, 5, 9):  # one run, killed three times
        child = os.fork()
        if child == 0:
            try:
                trainer(tmp_path, hooks=Die(step), checkpoint_every=2).train(rows, held_out, resume="auto")
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    last = trainer(tmp_path, checkpoint_every=2)
    result = last.train(rows, held_out, resume="auto")
    assert result.resumed_from is not None and result.resumed_from.endswith("step-8")
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, last.model.state_dict()[name]), name
    assert untimed_rows(tmp_path, result.run_id) == untimed_rows(tmp_path / "straight", whole.run_id)


def untimed_rows(place: Path, run: str) -> list[tuple[str, int, float]]:
    with Store.open(place / "store.db") as store:
        return [row[:3] for row in store.metrics(run) if row.key != "train/tokens_per_s"]


def test_never_refuses_a_taken_folder_and_leaves_it_alone(tmp_path: Path) -> None:
    trainer(tmp_path, epochs=1).train(sequences(4))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(UsageError, match="holds a run already"):
        trainer(tmp_path, epochs=1).train(sequences(4))
    with pytest.raises(ConfigError, match=r"optim\.learning_rate was 0\.02, is now 0\.5"):
        trainer(tmp_path, epochs=1, learning_rate=0.5).train(sequences(4), resume="auto")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = trainer(tmp_path, epochs=1).train(sequences(4))
    again = trainer(tmp_path, epochs=1).train(sequences(4), resume="auto")
    assert again.run_id == first.run_id and again.steps == first.steps
    assert any("complete already" in each for each in again.warnings)


def test_resume_auto_in_an_empty_place_starts(tmp_path: Path) -> None:
    result = trainer(tmp_path, epochs=1).train(sequences(4), resume="auto")
    assert result.status == "completed" and result.resumed_from is None


def test_resume_from_a_named_checkpoint_gives_up_what_came_after(tmp_path: Path) -> None:
    changes = {"checkpoint_every": 1, "keep_last": 9}
    first = trainer(tmp_path, **changes).train(sequences(8))
    chosen = tmp_path / "run" / "checkpoints" / "step-2"
    again = trainer(tmp_path, **changes).train(sequences(8), resume=str(chosen))
    assert again.resumed_from == str(chosen) and again.steps == first.steps
    assert (tmp_path / "run" / "checkpoints" / "quarantine" / "step-3").is_dir()


def test_other_data_is_refused_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trainer(tmp_path, hooks=Stop(2)).train(sequences(12))
    with pytest.raises(DataError, match="not what it was"):
        trainer(tmp_path).train(sequences(13), resume="auto")


def test_another_architecture_is_refused_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trainer(tmp_path, hooks=Stop(2)).train(sequences(12))
    other = ts.Trainer(Model(width=20), config(tmp_path), task="causal-lm", device="cpu")
    with pytest.raises(ModelError, match=r"embed\.weight has shape"):
        other.train(sequences(12), resume="auto")


class Poison(nn.Module):
    """Divides by zero when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x / (0.0 if self.calls > 3 else 1.0)


def test_nan_stops_at_the_first_bad_step_and_names_the_module(tmp_path: Path) -> None:
    model = Model()
    model.drop = Poison()  # type: ignore[assignment]
    made = ts.Trainer(model, config(tmp_path), task="causal-lm", device="cpu")
    seen: dict[int, dict[str, Tensor]] = {}

    class Keep:
        def on_step(self, info: StepInfo) -> None:
            seen[info.step] = {name: value.clone() for name, value in model.state_dict().items()}

    made.hooks = (Keep(),)
    with pytest.raises(NonFinite, match="module drop") as caught:
        made.train(sequences(16))
    bad_step = max(seen) + 1
    assert f"step {bad_step}," in caught.value.where
    for name, value in seen[bad_step - 1].items():
        assert torch.equal(value, model.state_dict()[name])
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"
    assert (tmp_path / "run" / "latest").read_text().strip() == f"step-{bad_step - 1}"


def test_too_little_memory_is_named(tmp_path: Path) -> None:
    class Huge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.empty(1 << 50).sum() if self.training else x

    model = Model()
    model.drop = Huge()  # type: ignore[assignment]
    with pytest.raises(OutOfMemory, match="memory") as caught:
        ts.Trainer(model, config(tmp_path), task="causal-lm", device="cpu").train(sequences(4))
    assert caught.value.exit_code == 77 and "batch_size" in caught.value.next


def test_early_stopping(tmp_path: Path) -> None:
    noise = [torch.randint(VOCABULARY, (8,)) for _ in range(8)]
    result = trainer(tmp_path, epochs=50, early_stopping_patience=2, learning_rate=0.1).train(
        noise, sequences(4)
    )
    assert result.status == "completed" and result.reason == "early stopping"
    assert len(result.epochs) == result["best_epoch"] + 3
    with pytest.raises(ConfigError, match="no effect without validation"):
        trainer(tmp_path / "other", early_stopping_patience=2).train(noise)


def test_validation_is_the_mean_over_targets_without_dropout(tmp_path: Path) -> None:
    held_out = [row[: 3 + index] for index, row in enumerate(sequences(5, seed=1))]
    made = trainer(tmp_path, epochs=1)
    frozen = made.model.get_submodule("mix").eval()  # the user's choice, to be left alone
    result = made.train(sequences(8), held_out)
    assert made.model.training and not frozen.training

    made.model.eval()
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(made.model(row[None])[0, :-1], row[1:], reduction="sum")
            for row in held_out
        ]
    expected = float(sum(losses)) / sum(len(row) - 1 for row in held_out)
    assert result.final["val/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 10), (2, 6), (3, 4), (8, 2)])
def test_accumulation_uses_every_example_once_per_epoch(
    tmp_path: Path, accumulation: int, steps: int
) -> None:
    seen: list[int] = []

    class Count:
        def on_step(self, info: StepInfo) -> None:
            seen.append(info.tokens)

    made = trainer(tmp_path, epochs=2, hooks=Count(), gradient_accumulation_steps=accumulation)
    result = made.train(sequences(18))  # five batches: the last has two rows
    assert (result.steps, result.tokens) == (steps, 2 * 18 * 7)
    assert seen[steps // 2 - 1] == 18 * 7


def test_ragged_sequences_and_padding(tmp_path: Path) -> None:
    rows = [row[: 3 + index % 4] for index, row in enumerate(sequences(12))]
    result = trainer(tmp_path, epochs=1).train(rows, rows)
    assert result.tokens == sum(len(row) - 1 for row in rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no examples|empty"),
        ([torch.tensor([3])] * 4, "too short for causal-lm"),
        ([torch.tensor([1, 2, VOCABULARY])] * 4, "outside"),
        ([torch.tensor([1, 2, -1])] * 4, "outside"),
    ],
)
def test_bad_data_is_one_clear_error(tmp_path: Path, rows: list[Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        trainer(tmp_path).train(rows)


def test_a_dataset_that_raises_in_the_middle_leaves_the_run_intact(tmp_path: Path) -> None:
    class Broken(Pairs):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            if index == 5:
                raise ValueError("disc read error")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="example 5"):
        trainer(tmp_path, checkpoint_every=1).train(Broken(sequences(40)))
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"


def test_keys_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="d_model=64, but the model has"):
        trainer(tmp_path, d_model=64)
    with pytest.raises(ConfigError, match="validation_split has no effect"):
        trainer(tmp_path, validation_split=0.3).train(sequences(4))
    with pytest.raises(ConfigError, match="wandb_project"):
        trainer(tmp_path, wandb_project="mine")
    assert not (tmp_path / "run").exists()


def test_images_in_bf16(tmp_path: Path) -> None:
    class Pixels(nn.Linear):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return super().forward(pixel_values.flatten(1))

    model = Pixels(3 * 8 * 8, 4)
    stripes = torch.eye(4).repeat_interleave(2, dim=1)[:, None, :, None].expand(4, 3, 8, 8)
    images = [(stripes[label], torch.tensor(label)) for label in (0, 1, 2, 3) * 6]
    task = ts.TaskSpec.vision(num_classes=4, image_size=8)
    made = ts.Trainer(model, config(tmp_path, precision="bf16-mixed", epochs=40), task=task, device="cpu")
    result = made.train(images, images)
    assert result.epochs[-1]["val/accuracy"] == 1.0
    assert "val/perplexity" not in result.epochs[-1]


def test_trains_from_a_target_and_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = tmp_path / "text"
    text.mkdir()
    for number in range(4):
        (text / f"{number}.txt").write_text("to be or not to be, that is the question\n" * 40)
    made = ts.Trainer("zoo:gpt-nano", config(tmp_path, d_model=32, num_layers=1, vocab_size=300, max_steps=3))
    result = made.train(str(text))
    assert result.steps == 3
    sample = result.sample(5, prompt="to be")
    assert sample is not None and sample.startswith("to be")
