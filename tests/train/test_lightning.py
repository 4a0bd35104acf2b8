"""Lightning's own Trainer over our adapter: same losses, same gradients for every split, real checkpoints."""

from __future__ import annotations

import copy
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own imports warn
    import lightning.pytorch as pl

    from torchstone.train.lightning import (
        TrainingCoordinator,
        UniversalModelAdapter,
        compute_effective_precision,
    )

from torchstone._errors import EnvironmentProblem, UsageError
from torchstone.optim.config import OptimConfig
from torchstone.optim.registry import build_optimizer
from torchstone.optim.schedule import learning_rate_at
from torchstone.train.evaluate import evaluate

# Advice about workers, loggers and accelerators that a test does not take.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

V = 19


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(V, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, V)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.table(input_ids)
        return self.head(x + torch.tanh(self.mix(x.cumsum(1))))


def rows(num: int = 9, length: int = 7) -> list[dict[str, Tensor]]:
    """Sequences of which different numbers of tokens count."""
    made = []
    for number in range(num):
        ids = torch.randint(V, (length,), generator=torch.Generator().manual_seed(number))
        labels = ids.clone()
        labels[length - number % 4 :] = -100
        made.append({"input_ids": ids, "labels": labels})
    return made


def fit(tmp_path: Path, batch_size: int, accumulation: int, **options: Any) -> UniversalModelAdapter:
    module = UniversalModelAdapter(Tiny(), task="causal-lm", optim=OptimConfig(learning_rate=0.05, eps=1.0))
    trainer = pl.Trainer(
        max_epochs=2, accumulate_grad_batches=accumulation, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        precision="64-true", default_root_dir=str(tmp_path), **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows(), batch_size=batch_size, shuffle=False))
    return module


def by_hand(batch_size: int, accumulation: int, clip: float | None = None) -> nn.Module:
    """The law, written out: gradients of the mean over the targets of each window."""
    model, optim = Tiny().double(), OptimConfig(learning_rate=0.05, eps=1.0)
    optimizer = build_optimizer(model, optim)
    batches = list(DataLoader(rows(), batch_size=batch_size, shuffle=False))
    windows = [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]
    for step, window in enumerate(windows + windows):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, 2 * len(windows), optim)
        scores = torch.cat([model(each["input_ids"])[:, :-1].flatten(0, 1) for each in window])
        targets = torch.cat([each["labels"][:, 1:].flatten() for each in window])
        nn.functional.cross_entropy(scores, targets, ignore_index=-100).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 2), (1, 4), (9, 1), (2, 3)])
def test_every_window_has_the_gradient_of_its_mean_the_last_partial_one_too(
    tmp_path: Path, batch_size: int, accumulation: int
) -> None:
    ours, expected = fit(tmp_path, batch_size, accumulation).model, by_hand(batch_size, accumulation)
    for mine, other in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_any_split_of_the_same_tokens_trains_the_same(tmp_path: Path) -> None:
    one, other = fit(tmp_path, 4, 1).model, fit(tmp_path, 1, 4).model
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_gradients_are_clipped_after_they_are_means(tmp_path: Path) -> None:
    ours = fit(tmp_path, 2, 2, gradient_clip_val=0.05).model
    for mine, other in zip(ours.parameters(), by_hand(2, 2, clip=0.05).parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_a_forward_pass_gives_logits_and_a_loss_shifted_once() -> None:
    module = UniversalModelAdapter(Tiny(), task="causal-lm")
    ids = torch.stack([each["input_ids"] for each in rows(4)])
    assert module(input_ids=ids)["loss"] is None
    made = module(input_ids=ids, labels=ids)
    expected = nn.functional.cross_entropy(module.model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(made["loss"], expected)
    assert torch.equal(made["logits"], module.model(ids))
    assert module.generate(ids[:, :3], max_new_tokens=4, seed=0).shape == (4, 7)


def test_validation_weighs_tokens_as_evaluation_does(tmp_path: Path) -> None:
    module = UniversalModelAdapter(Tiny(), task="causal-lm")
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=str(tmp_path),
    )  # fmt: skip
    (found,) = trainer.validate(module, DataLoader(rows(), batch_size=2), verbose=False)
    expected = evaluate(copy.deepcopy(module.model), rows(), task="causal-lm", batch_size=4).metrics
    assert found["val_loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["val_perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)
    assert found["val_accuracy"] == pytest.approx(expected["accuracy"], rel=1e-5)


def test_the_coordinator_trains_on_text_and_leaves_best_and_last(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(f"file {number}: a cat sat on a mat.\n" * 20)
    coordinator = TrainingCoordinator(tmp_path / "out", use_gpu=False, precision="32")
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 32, "vocab_size": 300}
    from torchstone.adapt.load import load

    results = coordinator.train(
        load("zoo:gpt-nano", overrides=sizes), str(tmp_path / "*.txt"), max_epochs=2, batch_size=8,
        max_length=32, learning_rate=3e-3, accumulate_grad_batches=2, run_name="first", val_split=0.3,
    )  # fmt: skip
    folder = tmp_path / "out" / "checkpoints" / "first"
    assert Path(results["best_model_path"]) == folder / "best.ckpt"
    assert (folder / "best.ckpt").is_file() and (folder / "last.ckpt").is_file()
    assert results["final_metrics"]["val_loss"] < 5.7 and results["tokenizer"] is not None
    state = torch.load(folder / "best.ckpt", weights_only=True)
    assert any(name.startswith("model.") for name in state["state_dict"])
    assert results["trainer"].global_step == state["global_step"]


def test_the_coordinator_goes_on_from_a_checkpoint_and_says_what_it_holds_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = TrainingCoordinator(tmp_path, use_gpu=False, precision="16")
    options: dict[str, Any] = {"batch_size": 3, "task": "causal-lm", "early_stopping_patience": None}
    coordinator.train(Tiny(), rows(), max_epochs=1, **options)
    assert "1 of 9 examples are held out" in caplog.text and "precision 16 needs a GPU" in caplog.text
    last = tmp_path / "checkpoints" / "run_default" / "last.ckpt"
    results = coordinator.train(Tiny(), rows(), max_epochs=2, resume_from_checkpoint=last, **options)
    assert results["trainer"].global_step == 6
    results = coordinator.train(Tiny(), rows(), max_epochs=1, val_split=0.0, run_name="bare", **options)
    assert "val_loss" not in results["final_metrics"] and Path(results["best_model_path"]).is_file()
    with pytest.raises(UsageError, match="nothing to train on"):
        coordinator.train(Tiny())


def test_several_processes_are_refused_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = type("ZMQInteractiveShell", (), {})()
    fake = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    with pytest.raises(EnvironmentProblem, match="notebook"):
        TrainingCoordinator(tmp_path, strategy="ddp")
    monkeypatch.setenv("ALLOW_NOTEBOOK_DDP", "1")
    assert TrainingCoordinator(tmp_path, strategy="ddp").strategy == "ddp"


@pytest.mark.parametrize(
    ("use_amp", "cuda", "gpu", "effective"),
    [
        (None, False, False, "bf16"),
        (True, True, True, "16"),
        (True, False, True, "32"),
        (False, True, True, "32"),
    ],
)
def test_use_amp_decides_where_it_is_set(use_amp: bool | None, cuda: bool, gpu: bool, effective: str) -> None:
    assert compute_effective_precision("bf16", use_amp, cuda, gpu) == effective
