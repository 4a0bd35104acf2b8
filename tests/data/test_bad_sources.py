"""Sources that cannot be used: one clear error each, with exit code, file and place, and no half output."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torchstone._errors import DataError, Offline, UsageError
from torchstone.data import hub_rows
from torchstone.data.config import DataConfig
from torchstone.data.labelled import read_labelled
from torchstone.data.source import read_source
from torchstone.data.stdin import spooled
from torchstone.data.task import TaskSpec

PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001")


def parquet_of(**columns: list[object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        arrow = pytest.importorskip("pyarrow", reason="pip install 'torchstone[data]'")
        import pyarrow.parquet

        pyarrow.parquet.write_table(arrow.table(columns), path)

    return write


CSV = b"text,label\n"
CASES: list[tuple[str, bytes | Callable[[Path], None], dict[str, object], str, str]] = [
    # name, content, knobs, what is said, and where or why
    ("a.txt", b"", {}, "no text to read", "all of them empty"),
    ("a.txt", b"ok\n" * 500_000 + b"\xe9t\xe9", {}, "not text in the encoding", "byte 1500000"),
    ("a.txt", "text".encode("utf-16"), {}, "not text in the encoding", "UTF-16"),
    ("a.csv", b"", {}, "the table is empty", "no header"),
    ("a.csv", CSV, {}, "no text to read", "no rows"),
    (
        "a.csv",
        CSV + b"x,1\n",
        {"text_column": "txet"},
        "no column 'txet'",
        "text, label; did you mean 'text'",
    ),
    ("a.csv", b"one,two\nx,y\n", {}, "which column is the text", "one, two"),
    ("a.csv", b"text,text\nx,y\n", {}, "two columns have the name", "line 1"),
    ("a.csv", CSV + b"x,1\ny,2,3\n", {}, "a row cannot be read", "line 3"),
    ("a.csv", CSV + b'x,1\n"y,2\n', {}, "a row cannot be read", "unexpected end of data"),
    ("a.csv", CSV + b"x,1\n\xe9,2\n", {}, "not text in the encoding", "byte 15 (line 3)"),
    ("a.csv", CSV.decode().encode("utf-16"), {}, "not text in the encoding", "UTF-16"),
    ("a.jsonl", b"", {}, "the table is empty", "a.jsonl"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', {}, "a row cannot be read", "a.jsonl, line 2"),
    ("a.jsonl", b'{"text": "a"}\n["b"]\n', {}, "a row cannot be read", "line 2"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', {}, "a row has no 'text'", "line 2"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', {}, "holds no text", "line 2"),
    ("a.jsonl", b'{"text": "a\\ud83d"}\n', {}, "half a character", "line 1"),
    ("a.jsonl", b'{"meta": {"x": "a"}}\n', {"text_column": "meta"}, "is nested", "meta.x"),
    ("a.parquet", b"PAR1 and no more", {}, "no Parquet file", "a.parquet"),
    ("a.parquet", parquet_of(text=[["a", "b"]]), {"text_column": "text"}, "is nested", "list<"),
    ("a.parquet", parquet_of(text=[{"b": "c"}]), {"text_column": "text"}, "is nested", "text.b"),
    ("a.parquet", parquet_of(number=[1, 2]), {}, "which column is the text", "number"),
    ("a.parquet", parquet_of(text=[1, 2]), {}, "holds no text", "row 1"),
]


@pytest.mark.parametrize(("name", "content", "knobs", "what", "detail"), CASES)
def test_a_source_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path,
    name: str,
    content: bytes | Callable[[Path], None],
    knobs: dict[str, object],
    what: str,
    detail: str,
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(DataError) as caught:
        read_source(str(path), DataConfig(**knobs), cache_dir=tmp_path / "cache")
    assert what in caught.value.what
    assert detail in str(caught.value)
    assert str(path) in caught.value.where
    assert caught.value.exit_code == 4
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_text_and_tables_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("prose")
    (tmp_path / "b.csv").write_text("text\nx\n")
    with pytest.raises(DataError, match="a table is not plain text"):
        read_source(str(tmp_path), DataConfig())
    assert read_source(f"{tmp_path}/*.csv", DataConfig()).num_bytes("train") == 1


LABELS = [
    ("text,label\na,\n", {}, "a row has no label", "line 2"),
    ("text,label\na,-1\n", {}, "label -1 is out of range", "line 2"),
    ("text,label\na,0\nb,7\n", {}, "out of range", "labels are 0 to 1"),
    ("text,label\na,x\nb,y\nc,z\n", {}, "out of range", "3 classes"),
    ("text,stars\na,1\n", {}, "which column is the label", "text, stars"),
    ("text,stars\na,1\n", {"label_column": "star"}, "no column 'star'", "did you mean 'stars'"),
]


@pytest.mark.parametrize(("content", "knobs", "what", "detail"), LABELS)
def test_labels_that_cannot_be_used_are_one_clear_error(
    tmp_path: Path, content: str, knobs: dict[str, object], what: str, detail: str
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        read_labelled(str(tmp_path / "a.csv"), DataConfig(**knobs), TaskSpec.text_classification(2))
    assert what in caught.value.what
    assert detail in str(caught.value)


def test_numbers_to_learn_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1.5\nb,many\n")
    with pytest.raises(DataError, match="no number to learn") as caught:
        read_labelled(str(tmp_path / "a.csv"), DataConfig(), TaskSpec(kind="regression"))
    assert "line 3" in caught.value.where


def test_plain_text_has_no_labels_and_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("prose")
    with pytest.raises(DataError, match="plain text has no labels"):
        read_labelled(str(tmp_path), DataConfig(), TaskSpec.text_classification(2))
    with pytest.raises(DataError, match="holds no images"):
        read_labelled(str(tmp_path), DataConfig(), TaskSpec.vision())
    with pytest.raises(DataError, match="holds no images"):
        read_labelled("builtin:stdlib", DataConfig(), TaskSpec.vision())
    with pytest.raises(DataError, match="holds no text"):
        read_source("builtin:digits", DataConfig())


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="pip install 'torchstone[vision]'")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(PNG)
    with pytest.raises(DataError, match="an image cannot be read") as caught:
        read_labelled(str(tmp_path), DataConfig(), TaskSpec.vision())
    assert caught.value.where.endswith("cat/1.png")


def test_a_line_of_ten_megabytes_is_read_in_pieces(tmp_path: Path) -> None:
    line = "שלום 你好 words " * 400_000
    (tmp_path / "a.txt").write_text(line, encoding="utf-8")
    corpus = read_source(str(tmp_path / "a.txt"), DataConfig(validation_split=0.0))
    pieces = [document.text for document in corpus.documents("train")]
    assert "".join(pieces) == line
    assert max(map(len, pieces)) <= 1 << 20
    (tmp_path / "b.csv").write_text(f"text,n\n{line},1\n", encoding="utf-8")
    table = read_source(str(tmp_path / "b.csv"), DataConfig(validation_split=0.0))
    assert [document.text for document in table.documents("train")] == [line]


def test_line_ends_and_marks_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    corpus = read_source(str(tmp_path / "a.txt"), DataConfig(validation_split=0.0))
    assert [document.text for document in corpus.documents("train")] == ["one\r\ntwo\r\n"]
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbftext,n\r\none,1\r\ntwo,2\r\n")
    table = read_source(str(tmp_path / "b.csv"), DataConfig(validation_split=0.0))
    assert [document.text for document in table.documents("train")] == ["one", "two"]


# --- standard input --------------------------------------------------------------------------------


class Breaking(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError(5, "the other end is gone")
        return super().read(10)


def test_standard_input_is_whole_or_absent(tmp_path: Path) -> None:
    path = spooled(tmp_path, io.BytesIO(b"piped text"))
    assert path.read_bytes() == b"piped text"
    assert spooled(tmp_path, io.BytesIO(b"piped text")) == path
    with pytest.raises(DataError, match="no text to read"):
        spooled(tmp_path, io.BytesIO(b""))
    with pytest.raises(OSError, match="the other end"):
        spooled(tmp_path, Breaking(b"x" * 100))
    assert list(path.parent.iterdir()) == [path]


def test_a_terminal_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="nothing on standard input"):
        read_source("-", DataConfig(), cache_dir=tmp_path)


# --- Hugging Face ----------------------------------------------------------------------------------


def test_a_folder_that_is_no_saved_dataset_is_said(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="pip install 'torchstone[data]'")
    with pytest.raises(DataError, match="no dataset of Hugging Face lies here"):
        read_source(f"hf:{tmp_path}", DataConfig())
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="cannot be opened"):
        read_source(f"hf:{tmp_path}", DataConfig())


def test_a_hub_that_is_forbidden_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="pip install 'torchstone[data]'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline, match="the hub does not answer") as caught:
        read_source("hf:no-such-person/no-such-dataset", DataConfig())
    assert caught.value.exit_code == 75
    assert "HF_HUB_OFFLINE is set" in caught.value.why


def test_a_hub_that_does_not_answer_is_asked_three_times(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("datasets", reason="pip install 'torchstone[data]'")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(hub_rows, "FIRST_PAUSE_S", 0.001)
    with caplog.at_level("INFO", hub_rows.__name__), pytest.raises(Offline, match="does not answer"):
        read_source("hf:no-such-person/no-such-dataset", DataConfig())
    assert [record.message for record in caplog.records] == [
        "the hub does not answer; asked again in 0.001 s",
        "the hub does not answer; asked again in 0.002 s",
    ]
