"""Rows of tables become texts: every format gives the same rows, both sides are apart, counts are honest."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone._errors import ConfigError, DataError
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.pack import pack
from torchstone.data.rows import RowPart
from torchstone.data.source import Corpus, read_source

MIXED = [
    "plain words",
    "שלום עולם",
    "你好，世界",
    "नमस्ते दुनिया",
    "👩‍👩‍👧 family",
    'comma, "quote"',
    "two\nlines",
]


def rows_of(count: int) -> list[dict[str, object]]:
    return [
        {"id": index, "text": f"{MIXED[index % len(MIXED)]} {index}", "label": index % 3}
        for index in range(count)
    ]


def as_csv(path: Path, rows: list[dict[str, object]], delimiter: str = ",", **kind: str) -> Path:
    with path.open("w", newline="", **({"encoding": "utf-8"} | kind)) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def as_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="pip install 'torchstone[data]'")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def as_saved_dataset(path: Path, rows: list[dict[str, object]]) -> Path:
    datasets = pytest.importorskip("datasets", reason="pip install 'torchstone[data]'")
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


WRITERS = {
    "a.csv": as_csv,
    "a.tsv": lambda path, rows: as_csv(path, rows, "\t"),
    "mark.csv": lambda path, rows: as_csv(path, rows, encoding="utf-8-sig"),
    "a.jsonl": as_jsonl,
    "a.parquet": as_parquet,
    "saved": as_saved_dataset,
}


def texts(corpus: Corpus, side: str) -> list[str]:
    return [document.text for document in corpus.documents(side)]


def labelled(corpus: Corpus, side: str) -> list[tuple[str, str]]:
    parts = [part for part in corpus.files(side) if isinstance(part, RowPart)]
    return [(row.text, str(row.label)) for part in parts for row in part.rows()]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = rows_of(60)
    source = WRITERS[name](tmp_path / name, rows)
    corpus = read_source(str(source), DataConfig(validation_split=0.2), labelled=True)
    expected = [(str(row["text"]), str(row["label"])) for row in rows]
    train, val = labelled(corpus, "train"), labelled(corpus, "val")
    assert sorted(train + val) == sorted(expected)
    assert [pair for pair in expected if pair in set(train)] == train
    assert 4 <= len(val) <= 20
    assert texts(corpus, "train") == [text for text, _ in train]
    assert corpus.num_bytes("val") == sum(len(text.encode()) for text, _ in val)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([f"text {number}" for number in range(12)]), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(0, 3),
)
def test_no_text_stands_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, found: list[str], share: float, seed: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    as_jsonl(path, [{"text": text} for text in found])
    corpus = read_source(str(path), DataConfig(validation_split=share, split_seed=seed))
    train, val = texts(corpus, "train"), texts(corpus, "val")
    assert not set(train) & set(val)
    assert Counter(train + val) == Counter(found)
    assert train
    assert bool(val) == (share > 0 and len(set(found)) > 1)


def test_a_row_keeps_its_side_when_others_come(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "a.jsonl", rows_of(50))
    before = read_source(str(path), DataConfig(validation_split=0.3))
    held_out = set(texts(before, "val"))
    as_jsonl(path, rows_of(80))
    after = read_source(str(path), DataConfig(validation_split=0.3))
    assert held_out < set(texts(after, "val"))
    assert not held_out & set(texts(after, "train"))
    assert before.content_hash("train") != after.content_hash("train")


def test_splits_of_the_maker_are_kept(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'torchstone[data]'")
    parts = {
        name: datasets.Dataset.from_list([{"text": f"{name} {number}"} for number in range(5)])
        for name in ("train", "validation", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    for source in (str(tmp_path / "saved"), f"hf:{tmp_path / 'saved'}"):
        corpus = read_source(source, DataConfig())
        assert texts(corpus, "train") == [f"train {number}" for number in range(5)]
        assert texts(corpus, "val") == [f"validation {number}" for number in range(5)]


def test_columns_are_named_or_guessed_where_there_is_no_doubt(tmp_path: Path) -> None:
    rows = [{"title": f"title {number}", "body": f"body {number}", "stars": number} for number in range(4)]
    path = as_csv(tmp_path / "a.csv", rows)
    plain = DataConfig(validation_split=0.0)
    corpus = read_source(str(path), plain.model_copy(update={"text_column": "body"}))
    assert texts(corpus, "train") == [f"body {number}" for number in range(4)]
    only = as_jsonl(tmp_path / "b.jsonl", [{"sentence_one": "a b", "stars": 1}])
    assert texts(read_source(str(only), plain), "train") == ["a b"]
    inside = as_jsonl(tmp_path / "c.jsonl", [{"meta": {"title": "deep"}, "text": "x"}])
    dotted = plain.model_copy(update={"text_column": "meta.title"})
    assert texts(read_source(str(inside), dotted), "train") == ["deep"]
    nested = as_parquet(tmp_path / "d.parquet", [{"meta": {"title": "deep"}, "text": "x"}])
    assert texts(read_source(str(nested), dotted), "train") == ["deep"]


def test_what_is_left_out_is_counted_once(tmp_path: Path) -> None:
    found = ["a long text", "A  long TEXT", "a long text", "a long text", "", "no", "another text"]
    path = as_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in found])

    def kept(**knobs: object) -> tuple[list[str], dict[str, int]]:
        corpus = read_source(str(path), DataConfig(validation_split=0.0, **knobs))
        return texts(corpus, "train"), dict(corpus.dropped)

    assert kept() == (found[:4] + found[5:], {"empty": 1})
    assert kept(deduplicate="exact") == (
        ["a long text", "A  long TEXT", "no", "another text"],
        {"empty": 1, "duplicate": 2},
    )
    assert kept(deduplicate="normalized", min_chars=3) == (
        ["a long text", "another text"],
        {"empty": 1, "duplicate": 3, "shorter than data.min_chars": 1},
    )


def test_copies_and_short_files_are_left_out_too(tmp_path: Path) -> None:
    for name, content in {"a": "some text", "b": "some text", "c": "Some\nText", "d": "x"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    plain = DataConfig(validation_split=0.0)
    exact = read_source(str(tmp_path), plain.model_copy(update={"deduplicate": "exact"}))
    assert (len(exact.train), exact.dropped) == (3, {"duplicate": 1})
    loose = read_source(str(tmp_path), plain.model_copy(update={"deduplicate": "normalized", "min_chars": 2}))
    assert (len(loose.train), loose.dropped) == (1, {"duplicate": 2, "shorter than data.min_chars": 1})


def test_max_bytes_draws_rows_from_the_whole_table(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "a.jsonl", [{"text": f"{number:09}"} for number in range(1000)])
    corpus = read_source(str(path), DataConfig(validation_split=0.1, max_bytes=1800))
    chosen = sorted(int(text) for side in ("train", "val") for text in texts(corpus, side))
    assert 1200 <= corpus.num_bytes("train") + corpus.num_bytes("val") <= 1800
    assert chosen[0] < 100
    assert chosen[-1] > 900
    assert corpus.dropped["beyond data.max_bytes"] == 1000 - len(chosen)


def test_a_key_about_columns_needs_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    with pytest.raises(ConfigError, match=r"data\.text_column has no effect"):
        read_source(str(tmp_path / "a.txt"), DataConfig(text_column="text"))


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as stream:
            for number in range(count):
                stream.write(json.dumps({"text": f"{number} " + "word " * 2000}) + "\n")
        tracemalloc.start()
        corpus = read_source(str(path), DataConfig())
        assert sum(1 for _ in corpus.documents("train")) + sum(1 for _ in corpus.documents("val")) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(100), peak(2000)  # 1 MB and 20 MB
    assert many < few + 500_000


@pytest.mark.parametrize("harm", ["broken", "longer"])
def test_a_table_that_changes_in_use_leaves_no_tokens_behind(tmp_path: Path, harm: str) -> None:
    path = as_jsonl(tmp_path / "a.jsonl", rows_of(40))
    corpus = read_source(str(path), DataConfig(validation_split=0.0))
    if harm == "broken":
        path.write_text(path.read_text()[:-30])
    else:
        as_jsonl(path, rows_of(41))
    with pytest.raises(DataError, match="a row cannot be read" if harm == "broken" else "the table changed"):
        pack(corpus, ByteTokenizer(), 16, cache_dir=tmp_path / "cache")
    assert not [each for each in (tmp_path / "cache").rglob("*") if each.is_file()]
