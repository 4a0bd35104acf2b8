"""Quality is measured on a fair sample, with an interval, and judged by the limit that the report names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchstone._errors import DataError
from torchstone.data.config import DataConfig
from torchstone.data.dataset import as_dataset
from torchstone.data.overview import histogram, look_at
from torchstone.data.quality import (
    Copies,
    Question,
    Reservoir,
    judge,
    require_long_enough,
    wilson,
    zone_of,
)
from torchstone.data.task import TaskSpec

ANY = Question("any", "any", 0.20, "do something")


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def rate(found: dict, name: str) -> dict:
    return next(each for each in found["rates"] if each["name"] == name)


def test_wilson_equals_the_published_values() -> None:
    # R. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for (count, of), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(count, of) == pytest.approx(expected, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500), st.data())
def test_an_interval_holds_its_rate(of: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, of))
    low, high = wilson(count, of)
    assert 0 <= low <= count / of <= high <= 1
    mirrored = wilson(of - count, of)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_zones_are_strict() -> None:
    zones = {
        0.0: "excellent",
        0.0999: "excellent",
        0.1: "good",
        0.2: "high",
        0.4: "very high",
        0.6: "critical",
    }
    assert {share: zone_of(share) for share in zones} == zones
    assert zone_of(1.0) == "critical"


def test_what_is_not_certain_is_a_warning() -> None:
    assert judge(ANY, 5, 1000, sampled=True).status == "pass"
    assert judge(ANY, 21, 100, sampled=True).status == "warn"
    assert judge(ANY, 190, 1000, sampled=True).status == "warn"
    assert judge(ANY, 21, 100, sampled=False).status == "fail"
    found = judge(ANY, 400, 1000, sampled=True)
    assert (found.status, found.zone, found.limit) == ("fail", "very high", 0.20)
    assert found.low < 0.4 < found.high
    assert "lower end" in found.judged_by
    assert found.hint == "do something"


def test_the_sample_comes_from_everywhere() -> None:
    first = Reservoir(100, seed=3)
    for number in range(5000):
        first.offer(lambda number=number: number)
    chosen = first.in_order()
    assert len(set(chosen)) == 100
    assert chosen == sorted(chosen)
    quarters = [sum(low <= number < low + 1250 for number in chosen) for low in range(0, 5000, 1250)]
    assert min(quarters) >= 10
    other = Reservoir(100, seed=4)
    for number in range(5000):
        other.offer(lambda number=number: number)
    assert other.in_order() != chosen


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(300):
        drawn = Reservoir(150, seed)
        for number in range(1500):
            drawn.offer(lambda number=number: number < 225)  # 15 %, all of them at the front
        low, high = wilson(sum(drawn.in_order()), 150)
        held += low <= 0.15 <= high
    assert held / 300 > 0.92


def test_bad_rows_behind_the_first_thousand_are_seen(tmp_path: Path) -> None:
    texts = [f"a good row {number}" for number in range(1500)] + ["x"] * 1500
    found = look_at(str(jsonl(tmp_path / "a.jsonl", texts)), DataConfig(), sample=1000, seed=1)
    short = rate(found, "too-short")
    assert found["verdict"] == "fail"
    assert short["sampled"]
    assert short["low"] < 0.5 < short["high"]
    assert short["high"] - short["low"] == pytest.approx(2 * 1.96 * (0.25 / 1000) ** 0.5, rel=0.05)
    assert short["zone"] == "very high"
    again = look_at(str(tmp_path / "a.jsonl"), DataConfig(), sample=1000, seed=1)
    assert again["rates"] == found["rates"]


def test_copies_are_counted_once(tmp_path: Path) -> None:
    texts = ["one text", "One  Text", "one text", "another", "one text"]
    found = look_at(str(jsonl(tmp_path / "a.jsonl", texts)), DataConfig(validation_split=0.0))
    assert (rate(found, "duplicate")["count"], rate(found, "duplicate")["of"]) == (2, 5)
    assert rate(found, "near-duplicate")["count"] == 3
    assert found["statistics"] | {"avg_chars": 0, "avg_words": 0} == {
        "num_samples": 5,
        "total_chars": 40,
        "total_words": 9,
        "avg_chars": 0,
        "avg_words": 0,
        "min_chars": 7,
        "max_chars": 9,
    }


def test_copies_in_bounded_memory_keep_their_rate() -> None:
    import hashlib

    copies = Copies(most=500)
    for number in range(6000):
        for _ in range(3 if number % 3 == 0 else 1):
            copies.add(hashlib.sha256(str(number).encode()).digest())
    count, of, partial = copies.counted
    assert partial
    assert of < 1200
    low, high = wilson(count, of)
    assert low - 0.05 < 4000 / 10_000 < high + 0.05


def test_blocks_of_one_file_do_not_depend_on_how_it_is_read(tmp_path: Path) -> None:
    blocks = [f"block {number} " * (number % 700 + 1) + "\nends" for number in range(900)]
    (tmp_path / "a.txt").write_text("\n\n".join(blocks))
    found = look_at(str(tmp_path / "a.txt"), DataConfig(validation_split=0.0), sample=5)
    assert (found["unit"], found["statistics"]["num_samples"]) == ("block", 900)
    assert found["statistics"]["max_chars"] == max(map(len, blocks))
    assert found["statistics"]["total_words"] == sum(len(block.split()) for block in blocks)


def test_lengths_in_tokens_and_ids(tmp_path: Path) -> None:
    from torchstone.data.byte_tokenizer import ByteTokenizer

    path = jsonl(tmp_path / "a.jsonl", ["é", "éé"])
    found = look_at(str(path), DataConfig(), tokenizer=ByteTokenizer())
    assert found["lengths"] == {"unit": "tokens", "bins": histogram([2, 4])}
    import numpy as np

    np.array([5] * 1280 + list(range(1280)), dtype=np.uint16).tofile(tmp_path / "ids.bin")
    ids = look_at(str(tmp_path / "ids.bin"), DataConfig())
    assert ids["statistics"] == {"num_samples": 2560, "min_id": 0, "max_id": 1279}
    assert rate(ids, "one-token")["count"] == 10
    assert ids["verdict"] == "fail"


def test_histogram_covers_every_length() -> None:
    assert histogram([]) == []
    bins = histogram([0, 1, 2, 3, 9])
    assert [(each["from"], each["to"], each["count"]) for each in bins] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 3, 2),
        (4, 7, 0),
        (8, 15, 1),
    ]


def test_digits_and_classes_are_looked_at() -> None:
    pytest.importorskip("sklearn", reason="pip install 'torchstone[vision]'")
    found = look_at("builtin:digits", DataConfig(), sample=200)
    assert (found["task"], found["verdict"], found["statistics"]["num_samples"]) == ("vision", "pass", 1797)
    assert {each["name"] for each in found["classes"]} == set("0123456789")
    assert sum(each["examples"] for each in found["classes"]) == 1797


def test_training_refuses_data_that_is_mostly_too_short() -> None:
    task = TaskSpec.language_modeling(vocab_size=50)
    good = [torch.arange(6) for _ in range(1000)]
    require_long_enough(as_dataset(good, task), task, seed=0)
    late = good[:500] + [torch.tensor([1]) for _ in range(500)]
    with pytest.raises(DataError, match="too short for causal-lm") as caught:
        require_long_enough(as_dataset(late, task), task, seed=0)
    assert "interval" in caught.value.why
    assert int(caught.value.where.split()[-1]) >= 500
    require_long_enough(as_dataset(late, task), TaskSpec.text_classification(2), seed=0)
