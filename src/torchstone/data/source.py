"""Where text comes from: a name becomes a corpus of files, split by file into training and validation.

    corpus = read_source("builtin:stdlib", DataConfig(max_bytes=4_000_000))
    for document in corpus.documents("train"): ...

A source is a registered builtin, a text file, a folder or a glob. Every file is read and decoded once before
anything else happens, so a file in the wrong encoding is an error here and not in the middle of training.
Texts are then streamed again piece by piece. Tables (CSV, JSON lines, Parquet) and images are not read here.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchstone._errors import DataError, UsageError
from torchstone._registry import Registry
from torchstone.data.config import DataConfig
from torchstone.data.files import TextFile, read_pieces, scan, split_in_two
from torchstone.data.stdlib import stdlib_files

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class Document:
    """A text, or a piece of a long one; `ends` says whether the document is over after it."""

    name: str
    text: str
    ends: bool = True


@dataclass(frozen=True)
class Corpus:
    """Files in seeded order: the first ones are a fair sample of all."""

    name: str
    train: tuple[TextFile, ...]
    val: tuple[TextFile, ...]
    skipped: int = 0
    """Files left out because they could not be decoded (only sources that we chose ourselves)."""

    def files(self, split: str) -> tuple[TextFile, ...]:
        if split not in ("train", "val"):
            raise UsageError(f"there is no split named {split!r}", next="choose one of: train, val")
        return self.train if split == "train" else self.val

    def documents(self, split: str) -> Iterator[Document]:
        """The texts of a split; long ones come in pieces that tokenise as the whole would."""
        for file in self.files(split):
            held: str | None = None
            for text in read_pieces(file):
                if held is not None:
                    yield Document(file.name, held, ends=False)
                held = text
            if held is not None:
                yield Document(file.name, held)

    def num_bytes(self, split: str) -> int:
        return sum(file.num_bytes for file in self.files(split))

    def content_hash(self, split: str) -> str:
        """Changes when a name, a byte or the order of the split's files changes."""
        listing = [[file.name, file.sha256, file.start, file.stop] for file in self.files(split)]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """A text source that every machine has; `strict` says whether an undecodable file is an error."""

    name: str
    summary: str
    list_files: Callable[[], list[tuple[str, Path]]]
    """(name in the corpus, path) in a fixed order."""
    strict: bool = False


SOURCES: Registry[Source] = Registry("data source")
SOURCES.add(
    Source(
        "builtin:stdlib",
        "the Python standard library's own source files, without its tests",
        stdlib_files,
    )
)


def read_source(name: str, config: DataConfig) -> Corpus:
    """Find the files of `name`, read each once, choose and split them as `config` says."""
    if name.startswith("builtin:"):
        source = SOURCES.get(name)
        found, strict = source.list_files(), source.strict
    else:
        found, strict = _user_files(name), True
    files, num_skipped = scan(found, strict=strict)
    if num_skipped:
        log.info("%s: left out %d files that could not be decoded", name, num_skipped)
    if not files:
        raise DataError(
            "there is no text to read", where=name, why=f"{len(found)} files found, all of them empty"
        )
    chosen = _within(_seeded_order(files, config.split_seed), config.max_bytes, name)
    train, val = _split(chosen, config.validation_split, config.split_seed)
    return Corpus(name, tuple(train), tuple(val), num_skipped)


def _user_files(name: str) -> list[tuple[str, Path]]:
    path = Path(name).expanduser()
    if path.is_file():
        found = [(path.name, path)]
    elif path.is_dir():
        found = [(each.relative_to(path).as_posix(), each) for each in _walk(path)]
        if not found:
            raise DataError("the folder holds no files", where=name)
    elif glob.has_magic(name):
        root = _fixed_part(path)
        matches = sorted(root.glob(path.relative_to(root).as_posix()))
        found = [
            (each.relative_to(root).as_posix(), each)
            for each in matches
            if each.is_file() and not each.is_symlink()
        ]
        if not found:
            raise DataError("no file matches the pattern", where=name)
    else:
        raise DataError(
            "there is no such file or folder",
            where=name,
            next=f"give a file, a folder, a glob, or one of: {', '.join(SOURCES.names())}",
        )
    for _, each in found:
        if each.suffix.lower() in TABLES:
            raise DataError(
                f"a table is not plain text: {each.suffix}",
                where=str(each),
                why="its columns and quotes would be learned as if they were prose",
                next="write the text column to a .txt file and give that",
            )
    return found


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first part with a wildcard, so that names are the same on every machine."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _walk(folder: Path) -> list[Path]:
    """Regular files below `folder`; hidden ones and symbolic links are left alone."""
    files: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            files += _walk(entry)
        elif entry.is_file():
            files.append(entry)
    return files


def _seeded_order(files: list[TextFile], seed: int) -> list[TextFile]:
    """By a hash of seed and name: the order of a file does not depend on which others there are."""
    return sorted(files, key=lambda file: _draw("order", seed, file.name))


def _within(files: list[TextFile], max_bytes: int | None, name: str) -> list[TextFile]:
    if max_bytes is None:
        return files
    if len(files) == 1:
        return [split_in_two(files[0], max_bytes)[0]] if files[0].num_bytes > max_bytes else files
    chosen: list[TextFile] = []
    total = 0
    for file in files:
        if total + file.num_bytes > max_bytes:
            break
        chosen.append(file)
        total += file.num_bytes
    if not chosen:
        raise DataError(
            f"data.max_bytes={max_bytes} is less than the first file",
            where=name,
            why=f"{files[0].name} has {files[0].num_bytes} bytes, and files are read whole",
            next=f"--set data.max_bytes={files[0].num_bytes} or more",
        )
    return chosen


def _split(files: list[TextFile], share: float, seed: int) -> tuple[list[TextFile], list[TextFile]]:
    """By a hash of seed and content, so that two copies of a text never stand on both sides."""
    if share == 0.0:
        return files, []
    if len(files) == 1:
        head, tail = split_in_two(files[0], round(files[0].num_bytes * (1 - share)))
        return ([head], [tail]) if head.num_bytes and tail.num_bytes else (files, [])
    draws = {file.sha256: _draw("split", seed, file.sha256) for file in files}
    val_texts = {text for text, draw in draws.items() if draw < share}
    if not val_texts:
        val_texts = {min(draws, key=draws.__getitem__)}
    if len(val_texts) == len(draws):
        val_texts.discard(max(draws, key=draws.__getitem__))
    return (
        [file for file in files if file.sha256 not in val_texts],
        [file for file in files if file.sha256 in val_texts],
    )


def _draw(purpose: str, seed: int, text: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(json.dumps([purpose, seed, text]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
