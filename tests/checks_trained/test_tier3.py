"""Checks that train: a healthy model passes each, and a model made to fail it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo.tiny_decoder import Block, C, Healthy, V

import torchstone as ts
from torchstone._errors import ModelError, UsageError
from torchstone.adapt.adapter import adapt
from torchstone.adapt.load import load
from torchstone.train.amp import median_interval
from torchstone.train.fine_tuning import KEYS, fine_tuning
from torchstone.train.head_to_head import benchmark_comparison
from torchstone.train.lessons import lessons


class Small(Healthy):
    """One block of the healthy decoder."""

    def __init__(self) -> None:
        super().__init__([Block()])


class Deaf(Small):
    """Its parameters get gradients that change nothing: the answer is always the same."""

    def score(self, x: Tensor) -> Tensor:
        return super().score(x) * 0.0


class Detached(Small):
    def score(self, x: Tensor) -> Tensor:
        return super().score(x).detach()


class Bursting(Small):
    """Finite until its scale has moved by a step."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def score(self, x: Tensor) -> Tensor:
        far = 1e6 * self.scale
        return super().score(x) * (torch.exp(far) + torch.exp(-far) - 1.0 + self.scale)


class Rounding(Small):
    """What is left of the difference of two large numbers: nothing, in bf16."""

    def score(self, x: Tensor) -> Tensor:
        return ((super().score(x) + 3000.0) - 3000.0) * 4.0


class Sorted(nn.Module):
    """A classifier of two classes by which ids come."""

    def __init__(self, num_labels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_labels = num_labels
        self.table = nn.Embedding(V, C)
        self.head = nn.Linear(C, num_labels)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids).mean(1))


def one(model: Any, name: str, **how: Any) -> Any:
    return ts.check(model, only=[name], **how)[name]


def test_a_healthy_model_learns_and_comes_back_as_it_was() -> None:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = one(model, "fine-tuning")
    assert found.status == "pass" and found.measured < 0, found.summary
    assert {key for key in KEYS if key not in ("metrics_summary", "best_epoch", "final_loss_scale")} <= set(
        found.details
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_classifier_learns_too() -> None:
    found = one(Sorted(), "fine-tuning", task=ts.TaskSpec.text_classification(2))
    assert found.status == "pass", found.summary


def test_images_have_lessons_too() -> None:
    rows = lessons(load("zoo:lenet5").adapter, 6)
    assert rows[0]["pixel_values"].shape == (1, 32, 32)
    assert {int(each["labels"]) for each in rows} <= set(range(10))


@pytest.mark.parametrize(
    ("model", "word"), [(Deaf, "does not learn"), (Detached, "does not depend"), (Bursting, "breaks down")]
)
def test_a_model_that_cannot_learn_fails(model: Any, word: str) -> None:
    found = one(model(), "fine-tuning")
    assert found.status == "fail" and word in found.summary, found.summary


def test_a_stranger_is_not_blamed_for_what_a_run_starts() -> None:
    for name in ("fine-tuning", "benchmark"):
        found = one(Small(), name, wishes={"isolated": True, "baseline": Small()})
        assert found.status == "skip" and "--trust" in found.why


def test_a_baseline_is_named_or_the_check_is_skipped() -> None:
    assert one(Small(), "benchmark").status == "skip"


def test_a_model_is_no_worse_than_itself_and_a_deaf_one_is() -> None:
    same = one(Small(), "benchmark", wishes={"baseline": Small()})
    assert same.status == "pass" and same.measured == 0.0
    found = same.details
    assert {"parameter_count", "inference_speed_ms", "perplexity", "baseline_model"} <= found.keys()
    for name in ("parameter_count", "perplexity"):
        assert found[name]["ratio"] == found[name]["custom"] / found[name]["baseline"] == 1.0
    assert found["inference_speed_ms"]["custom"] > 0 and found["inference_speed_ms"]["speedup"] > 0
    assert found["tokens"] == found["steps"] * 8 * 31
    assert found["after_training"]["schema"] == "torchstone.regression/1"
    deaf = one(Deaf(), "benchmark", wishes={"baseline": Small()})
    assert deaf.status == "fail" and deaf.measured > 0.1 and "worse" in deaf.summary


def test_a_baseline_of_another_task_is_refused() -> None:
    with pytest.raises(UsageError, match="no baseline"):
        benchmark_comparison(Small(), "zoo:lenet5")


def test_a_lower_precision_that_loses_the_answer_fails_and_the_speed_is_told() -> None:
    found = one(Small(), "amp-speedup")
    assert found.status in ("pass", "warn"), found.summary
    low, high = found.details["speedup_interval"]
    assert low <= found.details["speedup"] <= high and found.measured < 0.05
    assert (found.status == "warn") == (high < 1)  # slower is said, never hidden
    broken = one(Rounding(), "amp-speedup")
    assert broken.status == "fail" and "trains differently" in broken.summary


def test_the_interval_of_a_median_is_binomial() -> None:
    """Of 15 draws the 4th and the 12th hold the median with 96.5 %, the 5th and the 11th with 88.2 %."""
    assert median_interval([float(each) for each in range(1, 16)]) == (4.0, 12.0)
    assert median_interval([1.0, 2.0, 3.0]) == (1.0, 3.0)


def test_fine_tuning_has_the_familiar_keys(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHSTONE_STORE", raising=False)
    found = fine_tuning(Small(), n_epochs=2, batch_size=20, learning_rate=3e-3, run_dir=tmp_path / "run")
    assert set(KEYS) <= found.keys()
    assert len(found["loss_history"]) == len(found["grad_norm_history"]) == 2 * 2
    assert (
        found["initial_loss"] == found["loss_history"][0] > found["final_loss"] == found["loss_history"][-1]
    )
    assert len(found["metrics_summary"]) == 2 and found["best_epoch"] in (0, 1)
    assert found["samples_per_second"] == pytest.approx(80 / found["training_time_seconds"])
    assert found["amp_enabled"] is False and len(found["val_loss_history"]) == 2


def test_lessons_are_the_same_for_the_same_seed_and_know_their_vocabulary() -> None:
    adapter = adapt(Small())
    first, again, other = (lessons(adapter, 4, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["input_ids"], other[0]["input_ids"])
    assert all(int(each["input_ids"].max()) < 10 for each in lessons(adapter, 4, below=10))
    with pytest.raises(ModelError, match="nothing to teach"):
        lessons(adapt(Small(), task="masked-lm"), 4)
