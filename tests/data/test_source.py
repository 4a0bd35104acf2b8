"""Text is found, proven readable, chosen and split the same way everywhere; bad input is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchstone._errors import DataError, UsageError
from torchstone.data.config import DataConfig
from torchstone.data.source import Corpus, read_source


def folder_of(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def many(root: Path, count: int = 40) -> Path:
    return folder_of(root, {f"part-{index:02}.txt": f"text number {index}\n" * 5 for index in range(count)})


def names(corpus: Corpus, split: str) -> set[str]:
    return {file.name for file in corpus.files(split)}


def text(corpus: Corpus, split: str) -> str:
    return "".join(document.text for document in corpus.documents(split))


def test_the_standard_library_is_there_without_its_tests() -> None:
    corpus = read_source("builtin:stdlib", DataConfig())
    everything = names(corpus, "train") | names(corpus, "val")
    assert "json/decoder.py" in everything
    assert not [name for name in everything if "site-packages" in name or "/test" in name]
    assert corpus.num_bytes("train") > 5_000_000
    assert 0.03 < corpus.num_bytes("val") / corpus.num_bytes("train") < 0.4
    assert corpus.content_hash("train") == read_source("builtin:stdlib", DataConfig()).content_hash("train")


def test_a_folder_is_split_by_file_and_nothing_is_lost(tmp_path: Path) -> None:
    corpus = read_source(str(many(tmp_path)), DataConfig(validation_split=0.25))
    train, val = names(corpus, "train"), names(corpus, "val")
    assert not train & val
    assert len(train | val) == 40
    assert 4 <= len(val) <= 16
    assert read_source(str(tmp_path), DataConfig(validation_split=0.25, split_seed=1)).val != corpus.val
    assert not read_source(str(tmp_path), DataConfig(validation_split=0.0)).val


def test_a_file_keeps_its_side_when_others_come_or_max_bytes_changes(tmp_path: Path) -> None:
    config = DataConfig(validation_split=0.3)
    before = read_source(str(many(tmp_path)), config)
    folder_of(tmp_path, {f"new-{index}.txt": f"other {index}" for index in range(30)})
    after = read_source(str(tmp_path), config)
    assert names(before, "val") <= names(after, "val")
    assert names(before, "train") <= names(after, "train")
    short = read_source(str(tmp_path), DataConfig(validation_split=0.3, max_bytes=1500))
    assert names(short, "val") <= names(after, "val")


def test_two_copies_of_a_text_stand_on_one_side(tmp_path: Path) -> None:
    texts = {f"{copy}/{index}.txt": f"text number {index}" for copy in "abc" for index in range(30)}
    corpus = read_source(str(folder_of(tmp_path, texts)), DataConfig(validation_split=0.3))
    assert corpus.val
    assert not {file.sha256 for file in corpus.train} & {file.sha256 for file in corpus.val}


@pytest.mark.parametrize("count", [2, 3])
def test_few_files_still_give_both_splits(tmp_path: Path, count: int) -> None:
    for seed in range(8):
        corpus = read_source(str(many(tmp_path, count)), DataConfig(split_seed=seed))
        assert corpus.train
        assert corpus.val


def test_one_file_is_cut_between_lines(tmp_path: Path) -> None:
    content = "".join(f"line {index} – é\n" for index in range(200))
    file = folder_of(tmp_path, {"one.txt": content}) / "one.txt"
    corpus = read_source(str(file), DataConfig(validation_split=0.2))
    assert text(corpus, "train") + text(corpus, "val") == content
    assert text(corpus, "train").endswith("\n")
    assert 0.15 < len(text(corpus, "val")) / len(content) < 0.25


def test_one_long_line_is_cut_between_characters(tmp_path: Path) -> None:
    file = folder_of(tmp_path, {"one.txt": "é" * 101}) / "one.txt"
    for share in (0.1, 0.33, 0.5):
        corpus = read_source(str(file), DataConfig(validation_split=share))
        assert text(corpus, "train") + text(corpus, "val") == "é" * 101


def test_max_bytes_takes_whole_files_in_seeded_order(tmp_path: Path) -> None:
    many(tmp_path)
    limited = read_source(str(tmp_path), DataConfig(max_bytes=1000, validation_split=0.0))
    assert 900 <= limited.num_bytes("train") <= 1000
    other = read_source(str(tmp_path), DataConfig(max_bytes=1000, validation_split=0.0, split_seed=5))
    assert names(other, "train") != names(limited, "train")
    with pytest.raises(DataError, match=r"max_bytes=10 is less than the first file"):
        read_source(str(tmp_path), DataConfig(max_bytes=10))


def test_max_bytes_cuts_a_single_file(tmp_path: Path) -> None:
    file = folder_of(tmp_path, {"one.txt": "abc\n" * 1000}) / "one.txt"
    corpus = read_source(str(file), DataConfig(max_bytes=1001, validation_split=0.0))
    assert text(corpus, "train") == "abc\n" * 250


def test_glob_takes_what_matches(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.txt": "1", "b/c.txt": "2", "b/d.md": "3"})
    corpus = read_source(f"{tmp_path}/**/*.txt", DataConfig(validation_split=0.0))
    assert names(corpus, "train") == {"a.txt", "b/c.txt"}


def test_links_and_hidden_files_are_left_alone(tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside", {"secret.txt": "secret"})
    inside = folder_of(tmp_path / "inside", {"a.txt": "plain", ".hidden": "x", ".git/b.txt": "y"})
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)
    corpus = read_source(str(inside), DataConfig(validation_split=0.0))
    assert text(corpus, "train") == "plain"
    assert names(read_source(f"{inside}/*.txt", DataConfig()), "train") == {"a.txt"}


def test_content_hash_sees_bytes_and_names_not_places(tmp_path: Path) -> None:
    hashes = set()
    for place, texts in [
        ("one", {"a.txt": "x", "b.txt": "y"}),
        ("two", {"a.txt": "x", "b.txt": "z"}),
        ("three", {"a.txt": "x", "c.txt": "y"}),
    ]:
        root = folder_of(tmp_path / place, texts)
        hashes.add(read_source(str(root), DataConfig(validation_split=0.0)).content_hash("train"))
    again = folder_of(tmp_path / "elsewhere", {"a.txt": "x", "b.txt": "y"})
    hashes.add(read_source(str(again), DataConfig(validation_split=0.0)).content_hash("train"))
    assert len(hashes) == 3


def test_python_sources_may_declare_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
    (tmp_path / "b.py").write_bytes(b"\xef\xbb\xbfy = 1\n")
    corpus = read_source(str(tmp_path), DataConfig(validation_split=0.0))
    by_name = {document.name: document.text for document in corpus.documents("train")}
    assert by_name["a.py"].endswith("x = 'é'\n")
    assert by_name["b.py"] == "y = 1\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "no text to read"),
        ("latin.txt", "é".encode("latin-1") * 9, "not text in the encoding"),
        ("utf16.txt", "text".encode("utf-16"), "not text in the encoding"),
        ("cut.txt", "é".encode()[:1], "not text in the encoding"),
        ("lying.py", b"# coding: no-such-codec\n", "not text in the encoding"),
        ("table.csv", b"text,label\n", "no text to read"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(DataError, match=said) as caught:
            read_source(str(source), DataConfig())
        assert str(source) in caught.value.where
        assert caught.value.exit_code == 4


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").mkdir()
    (tmp_path / "a.txt").write_text("fine")
    from torchstone.data.files import scan

    with pytest.raises(DataError, match="cannot be read"):
        scan([("loop.txt", tmp_path / "loop.txt")], strict=True)
    files, skipped = scan([("a.txt", tmp_path / "a.txt"), ("x", tmp_path / "absent")], strict=False)
    assert ([file.name for file in files], skipped) == (["a.txt"], 1)


def test_what_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_source(str(tmp_path / "absent.txt"), DataConfig())
    with pytest.raises(DataError, match="no file matches"):
        read_source(f"{tmp_path}/*.txt", DataConfig())
    with pytest.raises(DataError, match="holds no files"):
        read_source(str(tmp_path), DataConfig())
    with pytest.raises(UsageError, match="did you mean 'builtin:stdlib'"):
        read_source("builtin:stdlb", DataConfig())
    with pytest.raises(UsageError, match="train, val"):
        Corpus("empty", (), ()).files("test")


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    file = folder_of(tmp_path, {"one.txt": "abc\n" * 100}) / "one.txt"
    corpus = read_source(str(file), DataConfig(validation_split=0.0))
    file.write_text("abc\n")
    with pytest.raises(DataError, match="became shorter"):
        text(corpus, "train")
