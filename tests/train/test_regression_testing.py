"""A planted regression is found, an equal model is not accused, and chance accuses as rarely as is said."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from laws.small_run import VOCABULARY, TinyLM
from torch import nn

from torchstone._errors import DataError, TorchstoneError, UsageError
from torchstone.data.task import TaskSpec
from torchstone.train import regression_testing
from torchstone.train.evaluate import EvalResult, evaluate
from torchstone.train.regression_testing import Regression, compare, compare_models, paired_interval


def rows(count: int = 60, seed: int = 0) -> list[torch.Tensor]:
    """Sequences of a few ids, so that a model of their frequencies is better than chance."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, (int(5 + seed + n % 7),), generator=generator) for n in range(count)]


def model(good: float) -> nn.Module:
    """Knows, by `good`, that ids above 3 do not come."""
    torch.manual_seed(0)
    module = TinyLM(dropout=0.0)
    module.head = nn.Linear(8, VOCABULARY)
    with torch.no_grad():
        module.head.weight.mul_(0.1)
        module.head.bias.zero_()
        module.head.bias[:4] = good
    return module


@pytest.fixture(scope="module")
def scored() -> dict[str, EvalResult]:
    found = {name: evaluate(model(good), rows(), task="causal-lm") for name, good in
             {"good": 3.0, "worse": 2.5, "bad": 0.0}.items()}  # fmt: skip
    shaken = model(3.0)
    with torch.no_grad():
        shaken.head.bias[:4] += torch.tensor([0.02, -0.02, 0.02, -0.02])
    return found | {"shaken": evaluate(shaken, rows(), task="causal-lm")}


def test_a_planted_regression_is_found_and_the_other_way_round_is_an_improvement(scored: Any) -> None:
    for worse in ("worse", "bad"):
        found = compare(scored["good"], scored[worse])
        assert found.verdict == "regressed"
        loss, perplexity = found.metrics["loss"], found.metrics["perplexity"]
        assert loss.lower_is_better and perplexity.lower_is_better
        assert loss.status == perplexity.status == "regressed" and 0 < loss.interval[0] < loss.delta
        assert perplexity.candidate == pytest.approx(scored[worse].metrics["perplexity"])
        assert perplexity.interval[0] < perplexity.delta < perplexity.interval[1]
        back = compare(scored[worse], scored["good"])
        assert back.verdict == "improved" and back.metrics["loss"].delta == pytest.approx(-loss.delta)


def test_the_same_model_and_one_shaken_both_ways_are_neutral(scored: Any) -> None:
    same = compare(scored["good"], evaluate(copy.deepcopy(model(3.0)), rows(), task="causal-lm"))
    assert same.verdict == "neutral" and same.metrics["loss"].interval == (0.0, 0.0)
    assert compare(scored["good"], scored["shaken"]).verdict == "neutral"


def test_a_model_that_answers_nan_has_regressed(scored: Any) -> None:
    broken = evaluate(model(math.nan), rows(), task="causal-lm")
    assert compare(scored["good"], broken).verdict == "regressed"


def test_accuracy_is_better_the_higher_it_is() -> None:
    class Told(nn.Module):
        """Says the class that its input names, but for every `lie`-th id."""

        def __init__(self, lie: int) -> None:
            super().__init__()
            self.table = nn.Embedding(8, 3)
            with torch.no_grad():
                self.table.weight.zero_()
                for number in range(8):
                    self.table.weight[number, (number % 3 + (number < lie)) % 3] = 1e-3

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids)[:, 0]

    data = [{"input_ids": torch.tensor([n % 8, 1]), "labels": torch.tensor(n % 8 % 3)} for n in range(80)]
    found = compare_models(Told(0), Told(4), data, task=TaskSpec.text_classification(3))
    accuracy = found.metrics["accuracy"]
    assert not accuracy.lower_is_better and accuracy.status == "regressed" and accuracy.delta == -0.5
    back = compare_models(Told(4), Told(0), data, task=TaskSpec.text_classification(3))
    assert back.metrics["accuracy"].status == "improved"


def test_other_questions_and_too_few_of_them_are_refused(scored: Any) -> None:
    with pytest.raises(DataError, match="same questions"):
        compare(scored["good"], evaluate(model(3.0), rows(seed=1), task="causal-lm"))
    with pytest.raises(UsageError, match="same data"):
        compare(scored["good"], replace(scored["bad"], data="elsewhere"))
    with pytest.raises(TorchstoneError, match="too few"):
        compare_models(model(3.0), model(0.0), rows(5), task="causal-lm")
    with pytest.raises(UsageError, match="no rate"):
        compare(scored["good"], scored["bad"], false_alarms=0.0)


def test_batches_and_padding_do_not_change_the_questions(scored: Any) -> None:
    other = evaluate(model(3.0), rows(), task="causal-lm", batch_size=3)
    found: Regression = compare(scored["good"], other)
    assert found.verdict == "neutral"


@pytest.mark.parametrize("skewed", ["no", "up", "down", "flips"])
def test_chance_alone_is_called_a_regression_as_rarely_as_is_said(
    skewed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression_testing, "RESAMPLES", 399)
    generator = np.random.default_rng(5)
    trials, n, alarms = 400, 60, 0
    for trial in range(trials):
        draws = {
            "no": lambda: generator.normal(size=n),
            "up": lambda: generator.exponential(size=n) - 1,
            "down": lambda: 1 - generator.exponential(size=n),
            "flips": lambda: (generator.random(n) < 0.05) * 1.0 - (generator.random(n) < 0.05),
        }[skewed]()
        _, (low, _) = paired_interval(draws, np.ones(n), np.arange(n), tail=0.05, seed=trial)
        alarms += low > 0
    assert alarms <= 38  # of 400 at 5 %: 20 expected, more than 38 in one of 20,000 simulations


def test_units_are_texts_and_not_their_parts() -> None:
    """Examples of one text repeat each other: ten copies of each must not make the interval narrower."""
    generator = np.random.default_rng(0)
    differences, counts = generator.normal(0.2, 1, size=40), generator.integers(5, 50, 40).astype(float)
    alone = paired_interval(differences, counts, np.arange(40), tail=0.05)
    copied = paired_interval(
        np.repeat(differences, 10), np.repeat(counts, 10), np.repeat(np.arange(40), 10), tail=0.05
    )
    assert copied[0] == pytest.approx(alone[0]) and copied[1] == pytest.approx(alone[1])


def test_the_interval_covers_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides, against the known mean, on ratios of unequal texts."""
    monkeypatch.setattr(regression_testing, "RESAMPLES", 399)
    generator = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        counts = generator.integers(5, 50, 50).astype(float)
        _, (low, high) = paired_interval(
            counts * generator.normal(0.3, 1, 50), counts, np.arange(50), tail=0.05, seed=trial
        )
        inside += low < 0.3 < high
    assert 166 <= inside <= 193  # 180 expected; outside of it once in 1,000
