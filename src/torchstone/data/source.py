"""Where text comes from: a name becomes a corpus, split into training and validation.

    corpus = read_source("builtin:stdlib", DataConfig(max_bytes=4_000_000))
    for document in corpus.documents("train"): ...

A source is a registered builtin, a file of text or of rows (CSV, JSON lines, Parquet), a folder or a glob of
such files, a dataset of Hugging Face (hf:NAME), or standard input (-). All of it is read and decoded once
before anything else happens, so a file in the wrong encoding is an error here and not in the middle of
training. Texts are then streamed again piece by piece. Text is split by file, rows are split by row; images
are not read here.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torchstone._errors import ConfigError, DataError, UsageError
from torchstone._registry import Registry
from torchstone.data.config import DataConfig
from torchstone.data.digits import digit_images
from torchstone.data.files import Document, TextFile, read_pieces, scan, split_in_two
from torchstone.data.hub_rows import PREFIX, is_saved_dataset, open_dataset
from torchstone.data.rows import draw, normalized_digest, read_rows
from torchstone.data.stdin import STDIN, spooled
from torchstone.data.stdlib import stdlib_files
from torchstone.data.table import Table, format_of, open_table

__all__ = ["SOURCES", "Corpus", "Document", "Source", "TextPart", "find_tables", "read_source"]

log = logging.getLogger(__name__)


class TextPart(Protocol):
    """A file of text, or the rows of a table that stand on one side."""

    @property
    def name(self) -> str: ...

    @property
    def num_bytes(self) -> int: ...

    def identity(self) -> list[Any]: ...

    def documents(self) -> Iterator[Document]: ...


@dataclass(frozen=True)
class Corpus:
    """Parts of a text: files in seeded order (the first ones are a fair sample of all), or rows of tables."""

    name: str
    train: tuple[TextPart, ...]
    val: tuple[TextPart, ...]
    skipped: int = 0
    """Files left out because they could not be decoded (only sources that we chose ourselves)."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of texts that were left out for it."""

    def files(self, split: str) -> tuple[TextPart, ...]:
        if split not in ("train", "val"):
            raise UsageError(f"there is no split named {split!r}", next="choose one of: train, val")
        return self.train if split == "train" else self.val

    def documents(self, split: str) -> Iterator[Document]:
        """The texts of a split; long ones come in pieces that tokenise as the whole would."""
        for part in self.files(split):
            yield from part.documents()

    def num_bytes(self, split: str) -> int:
        return sum(part.num_bytes for part in self.files(split))

    def content_hash(self, split: str) -> str:
        """Changes when a name, a byte or the order of the split's files changes."""
        listing = [part.identity() for part in self.files(split)]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """Data that every machine has; `strict` says whether an undecodable file is an error."""

    name: str
    summary: str
    list_files: Callable[[], list[tuple[str, Path]]] | None = None
    """Of a text: (name in the corpus, path) in a fixed order."""
    strict: bool = False
    images: Callable[[], tuple[Any, Any]] | None = None
    """Of pictures: values 0 to 1 (N, height, width), and their classes (N,)."""


SOURCES: Registry[Source] = Registry("data source")
SOURCES.add(
    Source(
        "builtin:stdlib",
        "the Python standard library's own source files, without its tests",
        stdlib_files,
    )
)
SOURCES.add(
    Source("builtin:digits", "1,797 handwritten digits of 8 by 8 pixels (scikit-learn)", images=digit_images)
)


def read_source(
    name: str, config: DataConfig, *, cache_dir: Path | None = None, labelled: bool = False
) -> Corpus:
    """Find what `name` names, read it once, choose and split it as `config` says.

    `labelled`: its rows must have a label; then plain text will not do.
    """
    tables = find_tables(name)
    if tables:
        sides = read_rows(name, tables, config, labelled=labelled)
        train, val = [(each,) if each is not None else () for each in (sides.train, sides.val)]
        return Corpus(name, train, val, dropped=dict(sides.dropped))
    useless = [each for each in ("text_column", "label_column") if getattr(config, each) is not None]
    if useless:
        raise ConfigError(
            f"data.{useless[0]} has no effect on data.source={name}",
            why="only tables have columns",
            next="take the key out",
        )
    if labelled:
        raise DataError(
            "plain text has no labels",
            where=name,
            why="the task needs one for each text",
            next="give a table with a column of texts and one of labels: CSV, JSON lines, Parquet or hf:NAME",
        )
    return _read_files(name, config, cache_dir)


def _read_files(name: str, config: DataConfig, cache_dir: Path | None) -> Corpus:
    found, strict = _text_files(name, cache_dir)
    files, num_skipped = scan(found, strict=strict)
    if num_skipped:
        log.info("%s: left out %d files that could not be decoded", name, num_skipped)
    if not files:
        raise DataError(
            "there is no text to read", where=name, why=f"{len(found)} files found, all of them empty"
        )
    dropped: Counter[str] = Counter()
    files = list(_kept(_seeded_order(files, config.split_seed), config, dropped))
    if not files:
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise DataError("there is no text to read", where=name, why=why)
    chosen = _within(files, config.max_bytes, name)
    train, val = _split(chosen, config.validation_split, config.split_seed)
    return Corpus(name, tuple(train), tuple(val), num_skipped, dict(dropped))


def _text_files(name: str, cache_dir: Path | None) -> tuple[list[tuple[str, Path]], bool]:
    if name == STDIN:
        return [(STDIN, spooled(cache_dir))], True
    if not name.startswith("builtin:"):
        return _user_files(name), True
    source = SOURCES.get(name)
    if source.list_files is None:
        raise DataError(
            f"{name} holds no text",
            why=source.summary,
            next="give it to a vision model, such as zoo:lenet5, or choose builtin:stdlib",
        )
    return source.list_files(), source.strict


def find_tables(name: str) -> list[Table]:
    """The tables that a source consists of; none where it is text."""
    if name.startswith(PREFIX) or is_saved_dataset(Path(name).expanduser()):
        return open_dataset(name)
    if name == STDIN or name.startswith("builtin:"):
        return []
    found = _user_files(name)
    kinds = {format_of(path) for _, path in found}
    if None not in kinds:
        return [open_table(each, path) for each, path in found]
    if len(kinds) > 1:
        table = next(path for _, path in found if format_of(path) is not None)
        raise DataError(
            "a table is not plain text",
            where=str(table),
            why="the source holds other files besides, and its columns and quotes would be learned as prose",
            next="name one kind with a glob, such as 'FOLDER/*.txt' or 'FOLDER/*.csv'",
        )
    return []


def _kept(files: Sequence[TextFile], config: DataConfig, dropped: Counter[str]) -> Iterator[TextFile]:
    """Without files that are too short, or that came before."""
    seen: set[str] = set()
    for file in files:
        if config.min_chars and sum(len(piece) for piece in read_pieces(file)) < config.min_chars:
            dropped["shorter than data.min_chars"] += 1
            continue
        if config.deduplicate != "none":
            digest = file.sha256 if config.deduplicate == "exact" else normalized_digest(read_pieces(file))
            if digest in seen:
                dropped["duplicate"] += 1
                continue
            seen.add(digest)
        yield file


def _user_files(name: str) -> list[tuple[str, Path]]:
    path = Path(name).expanduser()
    if path.is_file():
        return [(path.name, path)]
    if path.is_dir():
        found = [(each.relative_to(path).as_posix(), each) for each in _walk(path)]
        if not found:
            raise DataError("the folder holds no files", where=name)
        return found
    if glob.has_magic(name):
        root = _fixed_part(path)
        matches = sorted(root.glob(path.relative_to(root).as_posix()))
        found = [
            (each.relative_to(root).as_posix(), each)
            for each in matches
            if each.is_file() and not each.is_symlink()
        ]
        if not found:
            raise DataError("no file matches the pattern", where=name)
        return found
    raise DataError(
        "there is no such file or folder",
        where=name,
        next=f"give a file, a folder, a glob, hf:NAME, - or one of: {', '.join(SOURCES.names())}",
    )


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
    return sorted(files, key=lambda file: draw("order", seed, file.name))


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
    draws = {file.sha256: draw("split", seed, file.sha256) for file in files}
    val_texts = {text for text, draw in draws.items() if draw < share}
    if not val_texts:
        val_texts = {min(draws, key=draws.__getitem__)}
    if len(val_texts) == len(draws):
        val_texts.discard(max(draws, key=draws.__getitem__))
    return (
        [file for file in files if file.sha256 not in val_texts],
        [file for file in files if file.sha256 in val_texts],
    )
