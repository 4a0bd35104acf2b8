"""Scores are what a plain loop over the text gives, a run's are what training recorded, intervals cover."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.spm import metaspace_tokenizer

from torchstone._errors import DataError, UsageError
from torchstone.adapt.load import load
from torchstone.adapt.saved import checkpoint_of
from torchstone.adapt.target import parse_target
from torchstone.config.resolve import resolve
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.task import TaskSpec
from torchstone.train.config import SECTIONS
from torchstone.train.evaluate import EvalJob, EvalResult, evaluate, run
from torchstone.train.interval import Units, ratio_interval, student_quantile
from torchstone.train.run import TrainJob
from torchstone.train.run import run as train
from torchstone.train.scoring import ClassCounts

TEXT = "".join(f"Zeile {n}: über den Zaun, {n * n % 97} Mal.\n" for n in range(300))
SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 32}


def trained(folder: Path, **changes: object) -> Path:
    """A run of 12 steps over twenty small files."""
    (folder / "texts").mkdir(exist_ok=True)
    for number in range(40):
        (folder / "texts" / f"{number}.txt").write_text(TEXT[number * 60 : number * 60 + 400])
    wanted = {f"model.{name}": value for name, value in SIZES.items()} | {
        "model.target": "zoo:gpt-nano",
        "data.source": str(folder / "texts"),
        "data.tokenizer": "bytes",
        "data.validation_split": 0.4,
        "train.max_steps": 12,
        "train.eval_every": 5,
        "tracking.dashboard": "n",
        "optim.learning_rate": 0.01,
        **changes,
    }
    config = resolve(SECTIONS, overrides=[(key, str(value)) for key, value in wanted.items()])
    train(TrainJob(config, run_dir=folder / "run", cache_dir=folder / "cache"))
    return folder / "run"


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("eval"))


def score(target: Path, **changes: Any) -> EvalResult:
    home = target if (target / "run.json").is_file() else target.parent.parent
    return run(EvalJob(target=str(target), cache_dir=home.parent / "cache", **changes))


def test_a_run_has_the_loss_that_its_training_recorded(a_run: Path) -> None:
    best = score(a_run)
    assert best.recorded is not None and best.recorded["difference"] == 0.0
    assert best.metrics["loss"] == best.recorded["val/loss"] and best.split == "val"
    last = score(a_run / "checkpoints" / "step-12")
    assert last.recorded is not None and last.recorded["difference"] == 0.0 and last.recorded["step"] == 12
    assert score(a_run).metrics == best.metrics  # and again the same
    assert score(a_run, batch_size=3).metrics["loss"] == pytest.approx(best.metrics["loss"], rel=1e-6)
    assert not any("recorded" in each for each in best.notes)


def test_a_run_that_averaged_its_weights_is_scored_with_the_averages(tmp_path: Path) -> None:
    found = score(trained(tmp_path, **{"train.ema_decay": 0.5}))
    assert found.recorded is not None and found.recorded["difference"] == 0.0
    assert any("averages" in each for each in found.notes)


def test_other_data_than_the_run_knew_is_told(tmp_path: Path) -> None:
    a_run = trained(tmp_path, **{"train.eval_every": 12})
    for each in (tmp_path / "texts").iterdir():
        each.write_text(each.read_text().upper())
    assert any("recorded val/loss" in each for each in score(a_run).notes)


def test_a_sample_a_split_and_other_texts_are_scored_too(a_run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT)
    other = score(a_run, data=str(tmp_path / "other.txt"))
    assert other.split == "all" and other.recorded is None
    assert other.counts["examples"] == len(TEXT.encode()) // 32
    assert score(a_run, max_samples=5).counts["examples"] == 5
    assert score(a_run, split="train").metrics["loss"] != score(a_run).metrics["loss"]
    with pytest.raises(UsageError, match="split"):
        score(a_run, split="test")
    with pytest.raises(UsageError, match="which data"):
        run(EvalJob(target="zoo:gpt-nano"))
    with pytest.raises(DataError, match="tokenizer"):
        run(EvalJob(target="zoo:gpt-nano", data=str(tmp_path / "other.txt")))


def test_few_documents_leave_blocks_as_units(a_run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT)
    assert "documents" in (score(a_run).interval_method or "")
    assert "blocks" in (score(a_run, data=str(tmp_path / "other.txt")).interval_method or "")


# --- against a plain loop ---------------------------------------------------------------------------------


class Bigram(nn.Module):
    """The next byte follows from the one before it, by a table."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(2 * torch.randn(258, 258, generator=generator))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids]


def test_loss_perplexity_and_bits_per_byte_are_those_of_a_plain_loop() -> None:
    model, tokenizer = Bigram(), ByteTokenizer()
    rows = [torch.tensor(tokenizer.encode(TEXT[start : start + size])) for start, size in ((0, 20), (31, 20))]
    found = evaluate(model, rows, task=TaskSpec.language_modeling(), tokenizer=tokenizer, batch_size=2)
    shares = model.table.detach().log_softmax(-1)
    bits = num_bytes = right = 0
    for row in rows:
        ids = row.tolist()
        for before, after in itertools.pairwise(ids):
            bits -= float(shares[before, after]) / math.log(2)
            num_bytes += 1
            right += int(shares[before].argmax()) == after
    assert found.counts == {
        "examples": 2, "targets": num_bytes, "bytes": num_bytes, "bytes_are": "bytes of each target token",
    }  # fmt: skip
    assert found.metrics["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(2 ** (bits / num_bytes), rel=1e-5)
    assert found.metrics["accuracy"] == right / num_bytes


def test_a_tokenizer_that_cannot_tell_its_bytes_is_told_of() -> None:
    tokenizer = metaspace_tokenizer([TEXT])
    rows = [torch.tensor(tokenizer.encode(TEXT[:40]))]
    found = evaluate(Bigram(), rows, task=TaskSpec.language_modeling(), tokenizer=tokenizer)
    assert found.counts["bytes"] is None and found.counts["bytes_are"].startswith("unknown: ")
    assert "bits_per_byte" not in found.metrics


def test_training_and_evaluation_tell_the_same_bits_per_byte(a_run: Path) -> None:
    best = score(a_run)
    recorded = checkpoint_of(parse_target(str(a_run))).metrics["val/bits_per_byte"]
    assert best.metrics["bits_per_byte"] == recorded
    # With one byte per token and a mark after each file, only the marks stand between the two.
    marks = best.counts["targets"] - best.counts["bytes"]
    per_target = best.metrics["loss"] / math.log(2)
    assert marks > 0
    assert recorded == pytest.approx(per_target * best.counts["targets"] / best.counts["bytes"], rel=1e-9)
    assert score(a_run, batch_size=3).metrics["bits_per_byte"] == pytest.approx(recorded, rel=1e-6)


# --- classes ----------------------------------------------------------------------------------------------


def naive_f1(true: list[int], said: list[int], label: int) -> float:
    right = sum(t == s == label for t, s in zip(true, said, strict=True))
    precision = right / said.count(label) if said.count(label) else 0.0
    recall = right / true.count(label) if true.count(label) else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_class_metrics_are_the_textbooks(pairs: list[tuple[int, int]]) -> None:
    true, said = [list(each) for each in zip(*pairs, strict=True)]
    counts = ClassCounts(5)
    half = len(pairs) // 2
    for part in (slice(0, half), slice(half, None)):
        counts.add(torch.eye(5)[said[part]], torch.tensor(true[part], dtype=torch.long))
    counts.add(torch.eye(5)[[0]], torch.tensor([-100]))  # a target that does not count
    seen = sorted({*true, *said})
    assert [each["class"] for each in counts.per_class] == seen
    f1 = [naive_f1(true, said, label) for label in seen]
    assert [each["f1"] for each in counts.per_class] == pytest.approx(f1)
    assert counts.metrics["macro_f1"] == pytest.approx(sum(f1) / len(f1))


class Choices(nn.Module):
    """Scores each position, or the text as a whole, by a table."""

    def __init__(self, num_classes: int, per_token: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, num_classes, generator=torch.Generator().manual_seed(1)))
        self.per_token = per_token

    def forward(self, input_ids: Tensor) -> Tensor:
        scores = self.table[input_ids]
        return scores if self.per_token else scores.sum(1)


def test_several_labels_per_text_have_their_own_metrics() -> None:
    model = Choices(3, per_token=False)
    ids = torch.randint(9, (10, 4), generator=torch.Generator().manual_seed(2))
    labels = (torch.rand(10, 3, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    rows = [{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)]
    task = TaskSpec.text_classification(num_classes=3, vocab_size=9)
    found = evaluate(model, rows, task=task, batch_size=4)
    said, true = model(ids) > 0, labels > 0.5
    assert found.metrics["exact_match"] == pytest.approx(float((said == true).all(-1).float().mean()))
    right = int((said & true).sum())
    assert found.metrics["micro_f1"] == pytest.approx(2 * right / int(said.sum() + true.sum()))
    assert found.metrics["accuracy"] == pytest.approx(float((said == true).float().mean()))
    assert "perplexity" not in found.metrics and len(found.per_class) == 3


def test_labels_per_token_are_counted_per_token() -> None:
    model = Choices(4, per_token=True)
    ids = torch.randint(9, (6, 5), generator=torch.Generator().manual_seed(2))
    labels = ids % 4
    labels[:, -1] = -100
    rows = [{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)]
    found = evaluate(model, rows, task=TaskSpec.text_classification(num_classes=4, vocab_size=9))
    assert found.counts["targets"] == 24 and sum(each["support"] for each in found.per_class) == 24
    expected = float((model(ids).argmax(-1) == labels)[:, :-1].float().mean())
    assert found.metrics["accuracy"] == pytest.approx(expected)


# --- intervals --------------------------------------------------------------------------------------------


def test_intervals_cover_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        counts = draws.integers(5, 40, size=60)
        of_unit = np.repeat(np.arange(20), 3)
        level = draws.normal(3.0, 0.5, size=20)[of_unit]  # texts differ; blocks of a text are alike
        sums = counts * (level + draws.normal(0, 0.2, size=60))
        low, high = ratio_interval(sums, counts, Units("documents", of_unit)) or (0.0, 0.0)
        covered += low <= 3.0 <= high
    assert 0.92 <= covered / 600 <= 0.975
    assert ratio_interval([1.0, 2.0], [1, 1], Units("documents", np.zeros(2))) is None


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042), (10**6, 1.96)]
)
def test_student_quantiles_are_those_of_the_tables(degrees: int, value: float) -> None:
    assert student_quantile(degrees) == pytest.approx(value, abs=2e-3)


@settings(max_examples=20)
@given(st.integers(2, 30), st.integers(0, 9))
def test_the_order_of_examples_does_not_matter(num_units: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    sums, counts = draws.normal(size=num_units), draws.integers(1, 9, size=num_units)
    order = draws.permutation(num_units)
    one = ratio_interval(sums, counts, Units("blocks", np.arange(num_units)))
    other = ratio_interval(sums[order], counts[order], Units("blocks", np.arange(num_units)[order]))
    assert one == pytest.approx(other)


def test_a_model_that_is_loaded_keeps_its_mode() -> None:
    model = load("zoo:gpt-nano", overrides=SIZES)
    model.module.train()
    rows = [torch.arange(8) for _ in range(3)]
    assert evaluate(model, rows).metrics["loss"] > 0 and model.module.training
