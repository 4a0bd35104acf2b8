"""An encode that is killed goes on; what a reader finds is whole; a full disk leaves nothing half written."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchstone._errors import DiskFull
from torchstone.data import encoding, pack, token_store
from torchstone.data.byte_tokenizer import ByteTokenizer
from torchstone.data.config import DataConfig
from torchstone.data.source import Corpus, read_source

NUM_FILES = 40


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 200)
    monkeypatch.setattr(token_store, "PART_BYTES", 1000)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(NUM_FILES):
        (folder / f"{number}.txt").write_text(f"text {number}: é\n" * (number + 1), encoding="utf-8")
    return read_source(str(folder), DataConfig(validation_split=0.0))


class Counting(ByteTokenizer):
    """Counts what it encodes, and stops with `problem` after so many texts."""

    def __init__(self, stop_after: int | None = None, problem: BaseException | None = None) -> None:
        self.encoded = 0
        self.stop_after, self.problem = stop_after, problem

    def encode(self, text: str) -> list[int]:
        if self.encoded == self.stop_after:
            assert self.problem is not None
            raise self.problem
        self.encoded += 1
        return super().encode(text)


def files(folder: Path) -> list[str]:
    return sorted(each.suffix for each in (folder / "tokens").iterdir())


def whole(corpus: Corpus, tmp_path: Path) -> pack.TokenBlocks:
    return pack.pack(corpus, ByteTokenizer(), 8, cache_dir=tmp_path / "whole").train


@pytest.mark.parametrize("stop_after", [0, 1, 7, 20, NUM_FILES - 1])
def test_a_stopped_encode_goes_on(corpus: Corpus, tmp_path: Path, stop_after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack.pack(corpus, Counting(stop_after, KeyboardInterrupt()), 8, cache_dir=tmp_path)
    again = Counting()
    blocks = pack.pack(corpus, again, 8, cache_dir=tmp_path).train
    expected = whole(corpus, tmp_path)
    assert blocks.tokens.tolist() == expected.tokens.tolist()
    assert blocks.num_text_bytes == expected.num_text_bytes == corpus.num_bytes("train")
    assert blocks.ends is not None and expected.ends is not None
    assert blocks.ends.tolist() == expected.ends.tolist()
    assert again.encoded < NUM_FILES - stop_after + 12  # a part holds at most a dozen of these
    assert again.encoded >= NUM_FILES - stop_after
    assert files(tmp_path) == [".json", ".npy", ".npy"]


@pytest.mark.parametrize("victim", [".npy.partial", ".ends.npy.partial", ".journal"])
@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "remove"])
def test_what_a_crash_left_is_cut_or_made_again(
    corpus: Corpus, tmp_path: Path, victim: str, harm: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack.pack(corpus, Counting(30, KeyboardInterrupt()), 8, cache_dir=tmp_path)
    (path,) = [
        each for each in (tmp_path / "tokens").iterdir()
        if each.name.endswith(victim) and (victim != ".npy.partial" or ".ends" not in each.name)
    ]  # fmt: skip
    data = path.read_bytes()
    middle = len(data) // 2
    changed = {
        "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:middle],
        "grow": data + b'{"pieces": 9' * 9999,
    }
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(changed[harm])
    blocks = pack.pack(corpus, ByteTokenizer(), 8, cache_dir=tmp_path).train
    assert blocks.tokens.tolist() == whole(corpus, tmp_path).tokens.tolist()
    (made,) = (tmp_path / "tokens").glob("*[!s].npy")
    assert made.stat().st_size == 128 + 2 * len(blocks.tokens)


def test_killed_at_any_time(corpus: Corpus, tmp_path: Path) -> None:
    """A real process, killed after so many flushes to the disk, then the next, until one gets through."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from torchstone.data import encoding, pack, token_store
        from torchstone.data.byte_tokenizer import ByteTokenizer
        from torchstone.data.config import DataConfig
        from torchstone.data.source import read_source
        encoding.CHUNK_CHARACTERS, token_store.PART_BYTES = 200, 1000
        corpus, fsync = read_source(sys.argv[1], DataConfig(validation_split=0.0)), os.fsync
        def dying(descriptor):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            fsync(descriptor)
        os.fsync = dying
        for left in (4, 5, 7, 2, 3, 1000):
            child = os.fork()
            if not child:
                pack.pack(corpus, ByteTokenizer(), 8, cache_dir=Path(sys.argv[2]))
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "texts"), str(tmp_path)]
    codes = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert codes == ["-9"] * 5 + ["0"]
    blocks = pack.pack(corpus, Counting(0, AssertionError()), 8, cache_dir=tmp_path).train
    assert blocks.tokens.tolist() == whole(corpus, tmp_path).tokens.tolist()


def test_a_full_disk(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, write = 0, token_store._write

    def full(stream: Any, values: Any) -> Any:
        nonlocal written
        written += 1
        if written == 25:
            stream.write(b"half")  # some of it fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(stream, values)

    monkeypatch.setattr(token_store, "_write", full)
    with pytest.raises(DiskFull, match="no space left") as caught:
        pack.pack(corpus, ByteTokenizer(), 8, cache_dir=tmp_path)
    assert caught.value.exit_code == 75
    (ids,) = (tmp_path / "tokens").glob("*[!s].npy.partial")
    assert files(tmp_path) == [".journal", ".partial", ".partial"]
    documents = [[*each.text.encode(), 257] for each in corpus.documents("train")]
    flat = [each for document in documents for each in document]
    kept = np.frombuffer(ids.read_bytes()[128:], np.uint16).tolist()
    assert kept and kept == flat[: len(kept)] and kept[-1] == 257
    monkeypatch.undo()
    assert pack.pack(corpus, ByteTokenizer(), 8, cache_dir=tmp_path).train.tokens.tolist() == flat


def test_a_disk_that_is_full_at_once_leaves_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Any, values: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(token_store, "_write", full)
    with pytest.raises(DiskFull):
        pack.pack(corpus, ByteTokenizer(), 8, cache_dir=tmp_path)
    assert files(tmp_path) == []


def test_one_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with token_store.alone(tmp_path / "tokens.npy"):
                inside += 1
                most = max(most, inside)
                threading.Event().wait(0.001)  # the others run
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def _pack_beside(texts: str, cache: str) -> int:
    corpus = read_source(texts, DataConfig(validation_split=0.0))
    tokenizer = Counting()
    pack.pack(corpus, tokenizer, 8, cache_dir=Path(cache))
    return tokenizer.encoded


def test_of_several_processes_one_encodes(corpus: Corpus, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        encoded = pool.starmap(_pack_beside, [(str(tmp_path / "texts"), str(tmp_path))] * 4)
    assert sorted(encoded) == [0, 0, 0, NUM_FILES]
    assert files(tmp_path) == [".json", ".npy", ".npy"]
