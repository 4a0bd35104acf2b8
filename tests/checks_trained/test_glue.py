"""GLUE: metrics are those of scikit-learn and scipy, rows come from everywhere, a deaf model fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.glue_rows import SCORED, TRAIN, write_glue

import torchstone as ts
from torchstone._errors import DataError, UsageError
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.glue import GLUE, read_glue
from torchstone.train.glue import encode, glue, scored
from torchstone.train.official_metrics import METRICS


class Letters(nn.Module):
    """Answers by which bytes come."""

    def __init__(self, num_labels: int, deaf: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config, self.deaf = {"num_labels": num_labels}, deaf
        self.table = nn.Embedding(300, 24)
        self.head = nn.Linear(24, num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        known = self.table(input_ids) * mask[..., None]
        pooled = known.sum(1) / mask.sum(1, keepdim=True)
        return self.head(pooled * 0.0 if self.deaf else pooled)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


answers = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=30)
numbers = st.lists(
    st.tuples(st.integers(-3, 3), st.floats(-5, 5, allow_subnormal=False, width=16)), min_size=3, max_size=30
)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of scikit-learn, where one side is constant
@settings(max_examples=40, deadline=None)
@given(answers)
def test_answers_are_scored_as_scikit_learn_does(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the reference")
    said, true = (np.array(each) for each in zip(*pairs, strict=True))
    assert METRICS["matthews"](said, true) == pytest.approx(metrics.matthews_corrcoef(true, said), abs=1e-9)
    assert METRICS["accuracy"](said, true) == metrics.accuracy_score(true, said)
    said, true = said % 2, true % 2
    assert METRICS["f1"](said, true) == pytest.approx(metrics.f1_score(true, said, zero_division=0))
    assert METRICS["matthews"](said, true) == pytest.approx(metrics.matthews_corrcoef(true, said), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(numbers)
def test_numbers_are_scored_as_scipy_does(pairs: list[tuple[int, float]]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="the reference")
    said, true = (np.array(each, dtype=float) for each in zip(*pairs, strict=True))
    if said.std() < 1e-3 or true.std() < 1e-3:
        assert METRICS["pearson"](said, np.zeros_like(true)) == 0.0  # scipy says NaN
        return
    assert METRICS["pearson"](said, true) == pytest.approx(stats.pearsonr(said, true).statistic, abs=1e-6)
    assert METRICS["spearman"](said, true) == pytest.approx(stats.spearmanr(said, true).statistic, abs=1e-9)


def test_every_task_has_its_splits_and_columns(folder: Path) -> None:
    assert GLUE.names() == ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"]
    for task in GLUE:
        data = read_glue(task.name, folder)
        assert set(data) == {"train", *task.scored}
        assert len(data["train"]) == TRAIN and all(len(data[split]) == SCORED for split in task.scored)
        assert all(len(row["texts"]) == len(task.texts) for row in data["train"])
    assert read_glue("ax", folder)["train"] == read_glue("mnli", folder)["train"]


def test_a_saved_dataset_is_read_as_lines_are(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra [data]")
    for split in ("train", "validation"):
        lines = (folder / "rte" / f"{split}.jsonl").read_text().splitlines()
        datasets.Dataset.from_list([json.loads(line) for line in lines]).save_to_disk(
            tmp_path / "rte" / split
        )
    (tmp_path / "rte" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    assert read_glue("rte", tmp_path) == read_glue("rte", folder)


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sst2"):
        read_glue("sst", folder)
    with pytest.raises(DataError, match="not in this folder"):
        read_glue("sst2", tmp_path)
    place = tmp_path / "cola"
    place.mkdir()
    (place / "train.jsonl").write_text('{"sentence": "a", "label": 1}\n')
    with pytest.raises(DataError, match="no split named validation"):
        read_glue("cola", tmp_path)
    (place / "validation.jsonl").write_text('{"sentence": "a", "label": -1}\n')
    with pytest.raises(DataError, match="no labels in validation"):
        read_glue("cola", tmp_path)
    (place / "validation.jsonl").write_text('{"sentence": "a", "label": 7}\n')
    with pytest.raises(DataError, match="out of range"):
        read_glue("cola", tmp_path)
    (place / "validation.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(DataError, match="no row of GLUE"):
        read_glue("cola", tmp_path)


def test_pairs_are_cut_at_the_longer_text_and_kept_apart() -> None:
    tokenizer = ByteTokenizer()
    made = encode({"texts": ("aaaaaaaa", "bb"), "labels": 1}, tokenizer, 8)["input_ids"]
    assert len(made) == 8 and made.count(ord("b")) == 2 and made.count(ord("a")) == 5


def test_every_task_is_trained_and_scored_by_its_own_metrics(folder: Path) -> None:
    found = glue(
        lambda task: Letters(task.num_classes or 1), ["stsb", "mnli"], folder, tokenizer=ByteTokenizer(),
        recipe={"epochs": 5, "learning_rate": 0.03},
    )  # fmt: skip
    told = found["tasks"]
    for name, splits in {"stsb": 1, "mnli": 2}.items():
        task = GLUE.get(name)
        assert len(task.scored) == splits
        for split in task.scored:
            assert set(task.metrics) <= told[name][split].keys() and told[name][split]["rows"] == SCORED
            assert told[name][split]["score"] > 0.8, (name, told[name][split])
    assert told["mnli"]["score"] == pytest.approx(
        (told["mnli"]["validation_matched"]["score"] + told["mnli"]["validation_mismatched"]["score"]) / 2
    )
    assert found["score"] == pytest.approx(sum(each["score"] for each in told.values()) / 2)


def test_one_model_serves_one_task_with_as_many_classes(folder: Path) -> None:
    with pytest.raises(UsageError, match="several tasks"):
        glue(Letters(2), ["sst2", "cola"], folder, tokenizer=ByteTokenizer())
    with pytest.raises(UsageError, match="3 classes"):
        glue(Letters(2), ["mnli"], folder, tokenizer=ByteTokenizer())


def test_a_constant_answer_scores_nothing_above_itself() -> None:
    true = np.array([0, 1, 1, 1] * 20)
    told = scored(GLUE.get("mrpc"), np.ones_like(true), true)
    assert told["accuracy"] == told["constant"] == 0.75 and told["above_constant"] == [0.0, 0.0]


def test_the_check_passes_a_sound_model_and_fails_a_deaf_one(folder: Path) -> None:
    wishes = {"glue": str(folder), "glue_task": "sst2", "tokenizer": ByteTokenizer()}
    how: Any = {"only": ["glue"], "task": ts.TaskSpec.text_classification(2)}
    sound = ts.check(Letters(2), wishes=wishes, **how)["glue"]
    assert sound.status == "pass" and sound.measured > 0, sound.summary
    deaf = ts.check(Letters(2, deaf=True), wishes=wishes, **how)["glue"]
    assert deaf.status == "fail" and "no better than a constant" in deaf.summary
    assert ts.check(Letters(2), **how)["glue"].status == "skip"
    gone = ts.check(Letters(2), wishes=wishes | {"glue_task": "mnli"}, **how)["glue"]
    assert gone.status == "fail" and "3 classes" in gone.summary
